# Huge pages are counted by themselves.
story a VM with huge pages comes to where there are some
host h1 16GiB
host h2 4GiB hugepages=2MiB:1024
expect runs db 1GiB hugepages=2MiB
then db on h2
then steps 1

story a host that says nothing of huge pages has none
host h1 16GiB
host h2 64GiB hugepages=1GiB:8
expect runs db 1GiB hugepages=2MiB
then cannot
then unmet db
then says needs 512 huge pages of 2MiB; the host has none of that size for guests
then says set 512 huge pages of 2MiB more aside on h1

story what lacks is told with numbers, and what would help
host h1 16GiB hugepages=2MiB:64
vm a on h1 80MiB hugepages=2MiB
without making room
expect runs db 64MiB hugepages=2MiB
then cannot
then says needs 32 huge pages of 2MiB; the host has 64, of which 40 are taken: 24 would fit
then says free 8 huge pages of 2MiB on h1

story what other programs have taken counts
host h1 16GiB hugepages=2MiB:64-40
expect runs db 64MiB hugepages=2MiB
then cannot
then says of which 40 are taken: 24 would fit

story more than a host has in all is told as such
host h1 16GiB hugepages=2MiB:64
vm a on h1 2GiB
expect runs db 256MiB hugepages=2MiB
then cannot
then says the host has 64 in all
then says set 64 huge pages of 2MiB more aside on h1
never move a

story what is in huge pages takes no other memory
host h1 4GiB hugepages=2MiB:2048
vm a on h1 4GiB
expect runs db 4GiB hugepages=2MiB
then db on h1
then steps 1

story and other memory is no huge page
host h1 4GiB hugepages=2MiB:2048
vm a on h1 4GiB hugepages=2MiB
expect runs web 4GiB
then web on h1

story memory is counted in whole pages
host h1 8GiB hugepages=1GiB:2
host h2 8GiB hugepages=1GiB:1
expect runs db 1025MiB hugepages=1GiB
then db on h1

story two that fit one by one do not fit together
host h1 16GiB hugepages=2MiB:64
expect runs a 80MiB hugepages=2MiB
expect runs b 80MiB hugepages=2MiB
then steps 1
then unmet b

story what has ended holds none
host h1 16GiB hugepages=2MiB:64
vm a on h1 128MiB hugepages=2MiB stopped
expect runs db 128MiB hugepages=2MiB
then db on h1

story a stop frees them for a start that comes after it
host h1 16GiB hugepages=2MiB:64
vm a on h1 128MiB hugepages=2MiB
expect is_stopped a
expect runs db 128MiB hugepages=2MiB
then a nowhere
then db on h1

story one with huge pages moves so that another fits
host h1 16GiB hugepages=2MiB:64
host h2 16GiB hugepages=2MiB:32
vm small on h1 64MiB hugepages=2MiB
vm other on h1 8GiB
expect runs db 128MiB hugepages=2MiB
then favour moves small to h2 so that db fits on h1
then db on h1
then small on h2
then steps 2
never move other

story it moves to where there are pages and to no other host
host h1 16GiB hugepages=2MiB:64
host h2 64GiB
host h3 4GiB hugepages=2MiB:32
vm small on h1 64MiB hugepages=2MiB
expect runs db on h1 128MiB hugepages=2MiB
then small on h3
never to h2

story where nobody can move it is only told
host h1 16GiB hugepages=2MiB:64
host h2 16GiB
vm small on h1 64MiB hugepages=2MiB
expect runs db 128MiB hugepages=2MiB
then cannot
then says free 32 huge pages of 2MiB on h1
never move small

story a host that is drained is left by it for one that has pages
host h1 16GiB hugepages=2MiB:64
host h2 64GiB
host h3 4GiB hugepages=2MiB:64
vm db on h1 128MiB hugepages=2MiB
drain h1
then db on h3
never to h2

story or stays, and it is said why
host h1 16GiB hugepages=2MiB:64
host h2 64GiB
vm db on h1 128MiB hugepages=2MiB
drain h1
then db on h1
then says needs 64 huge pages of 2MiB; the host has none of that size for guests

story one that has agreed to it is stopped for pages
host h1 16GiB hugepages=2MiB:64
vm batch on h1 128MiB hugepages=2MiB priority=10 preemptible
vm other on h1 8GiB priority=5 preemptible
expect runs db 64MiB hugepages=2MiB
then preemption stops batch on h1 so that db, which has a higher priority, fits there
then steps 2
never stop other

story it grows into the pages that are left
host h1 16GiB hugepages=2MiB:1024
vm db on h1 1GiB hugepages=2MiB
expect has_size db 2GiB
then changes
then steps 1

story and no further, whatever other memory there is
host h1 64GiB hugepages=2MiB:1024
vm db on h1 1GiB hugepages=2MiB
expect has_size db 3GiB
then cannot
then says needs 1536 huge pages of 2MiB; the host has 1024 in all

story another leaves so that it can grow
host h1 16GiB hugepages=2MiB:1024
host h2 16GiB hugepages=2MiB:512
vm db on h1 1GiB hugepages=2MiB
vm web on h1 1GiB hugepages=2MiB
expect has_size db 2GiB
then web on h2
then steps 2

story a host whose guests with huge pages fit nowhere else cannot be lost
host h1 16GiB hugepages=2MiB:64
host h2 64GiB
vm db on h1 128MiB hugepages=2MiB
expect lose_any_host
then violated lose_any_host
then says needs 64 huge pages of 2MiB, 0 free
