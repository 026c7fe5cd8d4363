# Hosts that sleep while nobody needs them, and are woken before somebody does.
story an empty host sleeps when the others bear any loss without it
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 4GiB
event device h3
expect wish power_saving
then step put h3 to sleep
then steps 1
then changes
then kept power_saving
then saving put h3 to sleep as nobody needs h3

story of several the one with the least to move is emptied first and its vm goes where the least is left
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 3GiB
vm c on h3 2GiB
event device h1
event device h2
event device h3
expect wish power_saving
then step move c from h3 to h1
then step put h3 to sleep
then steps 2
then h3 empty
then saving move c away from h3, and put it to sleep so that h3 sleeps

story disks that are copied count as much as memory
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB disk=30GiB
vm b on h2 5GiB
vm c on h3 2GiB disk=30GiB
event device h1
event device h2
event device h3
expect wish power_saving
then step put h2 to sleep
never move c

story none sleeps that the loss of another one needs
host h1 8GiB
host h2 8GiB
host h3 8GiB
vm a on h1 6GiB
vm b on h2 6GiB
event device h3
expect wish power_saving
then nothing
then kept power_saving

story two hosts' worth of room is more than one
host h1 16GiB
host h2 16GiB
host h3 16GiB
host h4 16GiB
vm a on h1 10GiB
vm b on h2 10GiB
event device h4
expect wish power_saving spare=2
then nothing

story and where it is there, one sleeps all the same
host h1 16GiB
host h2 16GiB
host h3 16GiB
host h4 16GiB
host h5 16GiB
vm a on h1 10GiB
vm b on h2 10GiB
event device h5
expect wish power_saving spare=2
then step put h5 to sleep

story so many stay awake as it says
host h1 16GiB
host h2 16GiB
host h3 16GiB
event device h1
event device h2
event device h3
expect wish power_saving awake_min=3
then nothing

story one goes at a time
host h1 16GiB
host h2 16GiB
host h3 16GiB
host h4 16GiB
host h5 16GiB
event device h1
event device h2
event device h3
event device h4
event device h5
expect wish power_saving awake_min=1
then steps 1
then violated power_saving

story a host that nobody here can switch stays on
host h1 16GiB
host h2 16GiB
host h3 16GiB
expect wish power_saving
then nothing

story a vm that is not to be moved keeps its host awake and another one sleeps
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 3GiB
vm c on h3 1GiB
event device h2
event device h3
expect no_migration c
expect wish power_saving
then step put h2 to sleep
never move c
never sleep h3

story not even a wish is broken for it
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 4GiB
vm c on h3 1GiB
event device h3
expect wish not_same_host a c
expect wish not_same_host b c
expect must power_saving
then nothing
then c on h3

story what does not run is not moved
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm c on h3 1GiB paused
event device h3
expect wish power_saving
then nothing

story that any rack can be lost is not given up for it
host h1 16GiB rack=a domain=a
host h2 16GiB rack=a domain=a
host h3 16GiB rack=b domain=b
vm a on h1 4GiB
event device h3
expect lose_any_domain domain
expect wish power_saving
then nothing
then kept lose_any_domain

story a host is woken before it is needed
host h1 8GiB
host h2 8GiB
host h3 8GiB
vm a on h1 5GiB
vm b on h2 5GiB
event asleep h3
event lost h3
expect wish power_saving
then step wake h3
then steps 1
then kept power_saving
never move a

story the smallest that is enough is woken
host h1 8GiB
host h2 8GiB
host h3 2GiB
host h4 16GiB
host h5 32GiB
vm a on h1 5GiB
vm b on h2 5GiB
event asleep h3
event asleep h4
event asleep h5
expect wish power_saving
then step wake h4
then steps 1

story where none is enough the one that helps most is woken, and none that does not help
host h1 16GiB
host h2 16GiB
host h3 4GiB
host h4 6GiB
vm a on h1 5GiB
vm b on h1 5GiB
vm c on h2 14GiB
event asleep h3
event asleep h4
expect wish power_saving
then step wake h4
then steps 1
then kept power_saving
never wake h3

story too few that are awake wake one
host h1 16GiB
host h2 16GiB
event asleep h2
expect wish power_saving
then step wake h2
then saving wake h2 as 1 hosts are awake, and 2 are to be

story what is only told switches nothing
host h1 16GiB
host h2 16GiB
host h3 16GiB
event device h3
power is only told
expect wish power_saving
then steps 0
then violated power_saving
then says nobody needs h3
then says put h3 to sleep

story only hosts with the labels count
host h1 16GiB rack=a
host h2 16GiB rack=a
host h3 16GiB rack=a
host h4 16GiB rack=b
vm a on h1 4GiB
event device h3
event device h4
expect wish power_saving rack=a
then step put h3 to sleep
never sleep h4

story a vm does not leave the hosts that count
host h1 16GiB rack=a
host h2 8GiB rack=a
host h3 16GiB rack=a
host h4 64GiB rack=b
vm a on h1 12GiB
vm b on h2 6GiB
vm c on h3 12GiB
event device h3
expect wish power_saving rack=a
then nothing
never to h4

story none sleeps beside what fits nowhere
host h1 4GiB
host h2 4GiB
host h3 4GiB
event device h3
expect runs web 8GiB
expect wish power_saving
then unmet web
never sleep h3

story what is started counts
host h1 8GiB
host h2 8GiB
host h3 8GiB
vm a on h1 4GiB
event device h3
expect runs web 6GiB
expect wish power_saving
then steps 1
never sleep h3

story one that is woken for a start sends nobody to sleep
host h1 16GiB
host h2 16GiB
host h3 32GiB
event device h1
event device h2
event asleep h3
expect runs web 24GiB
expect wish power_saving awake_min=1
then step wake h3 for web
never sleep h1
never sleep h2

story a drained host is not one that is awake
host h1 16GiB
host h2 16GiB
host h3 16GiB
event device h3
event drain h1
expect wish power_saving
then nothing
