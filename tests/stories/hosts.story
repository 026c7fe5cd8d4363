# What is intended with hosts, and what becomes of them.
story a drained host is emptied
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h1 4GiB
vm c on h1 4GiB
event drain h1
then h1 empty
then steps 3
then no problem host_draining
never stop a
never stop b

story nothing new comes to a drained host
host h1 16GiB
host h2 4GiB
event drain h1
expect runs web 2GiB
then web on h2
never to h1

story nothing at all fits beside a drained host
host h1 16GiB
host h2 4GiB
event drain h1
expect runs web 8GiB
then web nowhere
then says needs 8GiB of memory, 4GiB free

story what cannot leave a drained host stays and is told
host h1 16GiB
host h2 4GiB
vm small on h1 2GiB
vm big on h1 8GiB
event drain h1
then small on h2
then big on h1
then problem host_draining
then cannot
never stop big

story a drain makes room elsewhere
host h1 8GiB
host h2 8GiB
host h3 6GiB
vm big on h1 8GiB
vm small on h2 4GiB
event drain h1
then h1 empty
then big on h2
then small on h3

story a vm that wishes to stay leaves a drained host all the same
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB
expect wish no_migration web
event drain h1
then web on h2

story a vm that must stay is not moved by a drain
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB
expect must no_migration web
event drain h1
then web on h1
then problem host_draining
then cannot

story a retired host is emptied too
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB
event retire h1
then web on h2
then h1 empty

story a drain keeps anti-affinity
host h1 8GiB
host h2 8GiB
host h3 4GiB
vm a on h1 1GiB
vm b on h2 1GiB
expect must not_same_host a b
event drain h1
then a on h3
then kept not_same_host

story a vm on a lost host is not started twice
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB
expect runs web
event lost h1
then steps 0
then cannot
then problem host_lost
then says only evidence that it is off permits a start elsewhere
never start web

story a host that is known to be off loses its vms to others
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB
expect runs web
event lost h1
event off h1
then web on h2
then steps 1
then problem host_off

story disks on a host that is off are not begun afresh
host h1 8GiB
host h2 8GiB
vm web on h1 2GiB disk=2GiB
expect runs web
event off h1
then web nowhere
then unmet web
never start web

story nothing is started on a lost host
host h1 16GiB
host h2 4GiB
event lost h1
expect runs web 2GiB
then web on h2
never to h1

story a host whose memory shrinks is relieved
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB
vm b on h1 6GiB
event shrinks h1 8GiB
then steps 1
then no problem overloaded

story a host that cannot be relieved is told
host h1 16GiB
vm a on h1 6GiB
vm b on h1 6GiB
event shrinks h1 8GiB
then steps 0
then problem overloaded
never stop a

story a pool that several hosts have and that is almost full is told once
host h1 16GiB shared=san:100GiB
host h2 16GiB shared=san:100GiB
vm a on h1 1GiB disk=91GiB@san
then problem pool_almost_full
then says pool san of h1 has 9GiB of 100GiB left
then nothing

story a pool with room is no problem
host h1 16GiB pool=fast:100GiB
vm a on h1 1GiB disk=80GiB@fast
then no problem pool_almost_full
then nothing

story a disk that is almost full is told
host h1 16GiB disk=10GiB
vm a on h1 1GiB disk=9GiB
then problem pool_almost_full
then nothing
