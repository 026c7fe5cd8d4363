# Hosts that are switched off on purpose, and woken when they are needed.
story a sleeping host is woken for what fits on no other
host h1 4GiB
host h2 16GiB
event asleep h2
event lost h2
expect runs web 8GiB
then step wake h2 for web
then step start web on h2
then steps 2
then changes
then no problem host_lost

story whoever has room and is awake comes first, however full
host h1 4GiB
host h2 16GiB
vm a on h1 2GiB
event asleep h2
event lost h2
expect runs web 2GiB
then web on h1
then steps 1
never wake h2

story others are moved before a host is woken, where they may be
host h1 8GiB
host h2 8GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 4GiB
event asleep h3
event lost h3
expect runs web 8GiB
then favour moves b to h1 so that web fits on h2
never wake h3

story and where they may not, it is woken
host h1 8GiB
host h2 8GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h2 4GiB
event asleep h3
event lost h3
without making room
expect runs web 8GiB
then step wake h3 for web
then web on h3
never move a
never move b

story one host is woken for all that fits there
host h1 4GiB
host h2 16GiB
host h3 16GiB
event asleep h2
event asleep h3
event lost h2
event lost h3
expect runs a 8GiB
expect runs b 8GiB
then steps 3
then a with b

story of sleeping hosts only one that fits is woken
host h1 2GiB
host h2 4GiB
host h3 16GiB rack=b
event asleep h2
event asleep h3
event lost h2
event lost h3
expect runs web 8GiB
then step wake h3 for web
never wake h2

story a rule chooses among sleeping hosts
host h1 2GiB
host h2 16GiB rack=a
host h3 16GiB rack=b
event asleep h2
event asleep h3
expect runs web 8GiB
expect must host_label web rack=b
then step wake h3 for web
then kept host_label
never wake h2

story the host that is named is woken
host h1 16GiB
host h2 16GiB
event asleep h2
expect runs web on h2 2GiB
then step wake h2 for web
then web on h2

story a stopped VM is started where its disks are, though that is asleep
host h1 16GiB
host h2 16GiB
vm web on h2 2GiB disk=1GiB stopped
event asleep h2
event lost h2
expect runs web
then step wake h2 for web
then web on h2

story nobody wakes a host where it may not be woken, and it is told which to power on
host h1 4GiB
host h2 16GiB
event asleep h2
event lost h2
without waking hosts
expect runs web 8GiB
then web nowhere
then cannot
then says h2 (h2): is asleep
then says power on h2

story what would not fit there either does not ask for power
host h1 4GiB
host h2 4GiB
event asleep h2
without waking hosts
expect runs web 8GiB
then unmet web
then says a host with

story what matters less than that wakes nobody
host h1 4GiB
host h2 16GiB
event asleep h2
wake for must only
expect should runs web 8GiB
then web nowhere
then says power on h2

story what should be is broken before a host is woken
host h1 16GiB rack=a
host h2 16GiB rack=b
event asleep h2
expect runs web 2GiB
expect should host_label web rack=b
then web on h1
then violated host_label
never wake h2

story a host that is to be emptied wakes nobody
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB
event drain h1
event asleep h2
then a on h1
never wake h2
never to h2

story a sleeping host has no place for what another loses, and its own loss is none
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB
event asleep h2
expect lose_any_host
then violated lose_any_host
then no problem host_lost

story a sleeping host is not an empty one that others are balanced onto
host h1 16GiB
host h2 16GiB
host h3 16GiB
vm a on h1 4GiB
vm b on h1 4GiB
vm c on h2 4GiB
event asleep h3
expect balanced 10%
never to h3
never wake h3

story an image comes to a host that was woken
host h1 4GiB image=alpine
host h2 16GiB
event asleep h2
event lost h2
expect runs web 8GiB disk=2GiB image=alpine
then step wake h2 for web
then step start web on h2, with image alpine copied from h1 first
