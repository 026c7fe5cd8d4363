# CPUs that a VM has for itself are counted by themselves.
story a VM with dedicated CPUs comes to where there are some
host h1 16GiB
host h2 4GiB dedicated=4
expect runs db 1GiB 2cpus dedicated
then db on h2
then steps 1

story a host that says nothing of dedicated CPUs has none
host h1 16GiB
expect runs db 1GiB 2cpus dedicated
then cannot
then unmet db
then says needs 2 dedicated CPUs; the host gives none to VMs for themselves
then says set 2 dedicated CPUs more aside on h1

story what lacks is told with numbers, and what would help
host h1 16GiB dedicated=4
vm a on h1 1GiB 3cpus dedicated
without making room
expect runs db 1GiB 2cpus dedicated
then cannot
then says needs 2 dedicated CPUs; the host has 4, of which 3 are taken: 1 would fit
then says free 1 dedicated CPU on h1

story more than a host has in all is told as such
host h1 16GiB dedicated=4
vm a on h1 1GiB 3cpus
expect runs db 1GiB 6cpus dedicated
then cannot
then says needs 6 dedicated CPUs; the host has 4 in all
then says set 2 dedicated CPUs more aside on h1
never move a

story dedicated CPUs take none that others share
host h1 16GiB 2cpus dedicated=4
vm a on h1 1GiB 2cpus
expect runs db 1GiB 4cpus dedicated
then db on h1
then steps 1

story and shared ones are nobody's own
host h1 16GiB 16cpus dedicated=1
expect runs db 1GiB 2cpus dedicated
then cannot
then says the host has 1 in all

story and who shares takes none of them
host h1 16GiB 2cpus dedicated=14
vm a on h1 1GiB 2cpus
without making room
expect runs web 1GiB
then cannot
then says needs 1 vcpus, 0 free

story two that fit one by one do not fit together
host h1 16GiB dedicated=4
expect runs a 1GiB 3cpus dedicated
expect runs b 1GiB 3cpus dedicated
then steps 1
then unmet b

story what has ended holds none
host h1 16GiB dedicated=2
vm a on h1 1GiB 2cpus dedicated stopped
expect runs db 1GiB 2cpus dedicated
then db on h1

story a stop frees them for a start that comes after it
host h1 16GiB dedicated=2
vm a on h1 1GiB 2cpus dedicated
expect is_stopped a
expect runs db 1GiB 2cpus dedicated
then a nowhere
then db on h1

story one with dedicated CPUs moves so that another fits
host h1 16GiB dedicated=4
host h2 16GiB dedicated=2
vm small on h1 1GiB 2cpus dedicated
vm other on h1 8GiB 4cpus
expect runs db 1GiB 4cpus dedicated
then favour moves small to h2 so that db fits on h1
then db on h1
then small on h2
then steps 2
never move other

story it moves to where there are some and to no other host
host h1 16GiB dedicated=4
host h2 64GiB
host h3 4GiB dedicated=2
vm small on h1 1GiB 2cpus dedicated
expect runs db on h1 1GiB 4cpus dedicated
then small on h3
never to h2

story where nobody can move it is only told
host h1 16GiB dedicated=4
host h2 16GiB
vm small on h1 1GiB 2cpus dedicated
expect runs db 1GiB 4cpus dedicated
then cannot
then says free 2 dedicated CPUs on h1
never move small

story a host that is drained is left by it for one that has some
host h1 16GiB dedicated=4
host h2 64GiB
host h3 4GiB dedicated=4
vm db on h1 1GiB 4cpus dedicated
drain h1
then db on h3
never to h2

story or stays, and it is said why
host h1 16GiB dedicated=4
host h2 64GiB
vm db on h1 1GiB 4cpus dedicated
drain h1
then db on h1
then says needs 4 dedicated CPUs; the host gives none to VMs for themselves

story one that has agreed to it is stopped for CPUs
host h1 16GiB dedicated=4
vm batch on h1 1GiB 4cpus dedicated priority=10 preemptible
vm other on h1 8GiB 4cpus priority=5 preemptible
expect runs db 1GiB 2cpus dedicated
then preemption stops batch on h1 so that db, which has a higher priority, fits there
then steps 2
never stop other

story with its memory in huge pages it takes nothing else, and is counted all the same
host h1 16GiB hugepages=2MiB:1024 dedicated=4
vm a on h1 1GiB 3cpus dedicated hugepages=2MiB
without making room
expect runs db 1GiB 2cpus dedicated hugepages=2MiB
then cannot
then says needs 2 dedicated CPUs; the host has 4, of which 3 are taken: 1 would fit

story and leaves by a stop that frees both
host h1 16GiB hugepages=2MiB:512 dedicated=2
vm a on h1 1GiB 2cpus dedicated hugepages=2MiB
expect is_stopped a
expect runs db 1GiB 2cpus dedicated hugepages=2MiB
then a nowhere
then db on h1

story it grows into the CPUs that are left
host h1 16GiB dedicated=4
vm db on h1 1GiB 2cpus dedicated
expect has_size db 4cpus
then changes
then steps 1

story and no further, whatever is shared
host h1 64GiB 16cpus dedicated=4
vm db on h1 1GiB 2cpus dedicated
expect has_size db 6cpus
then cannot
then says needs 6 dedicated CPUs; the host has 4 in all

story another leaves so that it can grow
host h1 16GiB dedicated=4
host h2 16GiB dedicated=2
vm db on h1 1GiB 2cpus dedicated
vm web on h1 1GiB 2cpus dedicated
expect has_size db 4cpus
then web on h2
then steps 2

story a host whose guests with dedicated CPUs fit nowhere else cannot be lost
host h1 16GiB dedicated=4
host h2 64GiB
vm db on h1 1GiB 4cpus dedicated
expect lose_any_host
then violated lose_any_host
then says needs 4 dedicated CPUs, 0 free
