# Hosts that are to be about as full as each other.
story crowded vms are spread until hosts are comfortably alike, and no further
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 3GiB
vm b on h1 3GiB
vm c on h1 3GiB
vm d on h1 3GiB
expect wish balanced 30%
then steps 2
then a on h2
then b on h3
then kept balanced
then changes
then shift move a from h1 to h2 as h1 is 75% full and h2 0%

story what is tolerated moves nobody
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB
vm b on h1 2GiB
expect wish balanced 25%
then nothing
then kept balanced

story once begun it goes on to half of what is tolerated
host h1 100GiB 100cpus
host h2 100GiB 100cpus
vm a on h1 10GiB
vm b on h1 10GiB
vm c on h1 10GiB
vm d on h1 10GiB
balancing was begun
expect wish balanced 45%
then steps 1
then kept balanced

story not begun it does not
host h1 100GiB 100cpus
host h2 100GiB 100cpus
vm a on h1 10GiB
vm b on h1 10GiB
vm c on h1 10GiB
vm d on h1 10GiB
expect wish balanced 45%
then nothing

story vcpus count as memory does
host h1 16GiB
host h2 16GiB
vm a on h1 1GiB 6cpus
vm b on h1 1GiB 6cpus
expect wish balanced 30%
then steps 1
then a on h2

story a vm that is not to be moved stays and another one goes
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB
vm b on h1 5GiB
expect wish balanced 20%
expect no_migration a
then a on h1
then b on h2

story a rule that forbids the best move leads to the next best
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 6GiB
vm b on h2 1GiB
vm c on h1 6GiB
vm e on h3 2GiB
expect not_same_host a b
expect not_same_host c b
expect wish balanced 30%
then steps 2
then a on h3
then e on h2
then kept not_same_host

story not even a wish is broken for it
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB
vm b on h1 6GiB
vm c on h2 1GiB
expect wish not_same_host a c
expect wish not_same_host b c
expect must balanced 20%
then steps 0
then violated balanced
then says a to h2: has room, but wish not

story a draining host counts as none and takes nothing
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 5GiB
vm b on h1 5GiB
vm c on h2 4GiB
event drain h3
expect wish balanced 20%
then steps 1
never to h3
then b on h1
then a on h2

story nor does one that is lost or off
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 5GiB
vm b on h1 5GiB
event lost h2
event off h3
expect wish balanced 20%
then steps 0
then kept balanced

story one huge vm cannot be balanced, and it is said why
host h1 16GiB
host h2 16GiB
vm huge on h1 12GiB
expect wish balanced 20%
then steps 0
then violated balanced
then says h1 is 75% full and h2 0%: 75 points apart, and 20 may be
then says no move helps: huge would make any other host as full as h1 is

story beside a huge vm the others are spread all the same
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm huge on h1 12GiB
vm a on h2 4GiB
vm b on h2 4GiB
expect wish balanced 20%
then steps 1
then a on h3
then huge on h1
then violated balanced

story a vm whose disks are copied stays while another one helps
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB disk=20GiB
vm b on h1 5GiB
expect wish balanced 20%
then steps 1
then b on h2

story what does not run is not moved
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB paused
vm b on h1 6GiB starting
expect wish balanced 20%
then steps 0
then says it must be running on h1

story only hosts with the labels count
host h1 16GiB rack=a
host h2 16GiB rack=a
host h3 16GiB rack=b
vm a on h1 5GiB
vm b on h1 5GiB
vm c on h2 4GiB
expect wish balanced 20% rack=a
then a on h2
never to h3

story where no move is wanted the first is told
host h1 16GiB
host h2 16GiB
vm a on h1 5GiB
vm b on h1 5GiB
balance is only told
expect wish balanced 20%
then steps 0
then violated balanced
then says move a from h1 to h2

story it is done last, when all that runs has its place
host h1 16GiB
host h2 16GiB
vm a on h1 6GiB
vm b on h1 6GiB
expect runs web 10GiB
expect wish balanced 20%
then web on h2
then steps 1

story room for the loss of any host is not given up for it
host h1 16GiB
host h2 16GiB
host h3 4GiB
vm a on h1 4GiB
vm b on h2 4GiB
vm c on h2 4GiB
expect lose_any_host
expect wish balanced 10%
then kept lose_any_host
