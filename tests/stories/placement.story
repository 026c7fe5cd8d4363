# Where a VM is started, and why not.
story a vm is started where the largest share stays free
host h1 4GiB
host h2 12GiB
expect runs web 2GiB
then web on h2
then steps 1
then changes

story packing fills the fullest host that fits
host h1 16GiB
host h2 16GiB
vm old on h2 8GiB
place pack
expect runs web 2GiB
then web on h2
never move old

story packing goes on where the full host is too full
host h1 16GiB
host h2 16GiB
vm old on h2 15GiB
place pack
expect runs web 2GiB
then web on h1

story balance takes the host whose memory and cpus stay even
host h1 16GiB
host h2 16GiB
vm cpus on h1 8cpus 1GiB
vm memory on h2 1cpus 8GiB
place balance
expect runs web 7cpus 1GiB
then web on h2

story two that fit singly but not together go to two hosts
host h1 15GiB
host h2 10GiB
expect runs a 8GiB
expect runs b 8GiB
then a apart from b
then steps 2

story the very last byte is used
host h1 4GiB
expect runs web 4GiB
then web on h1

story one byte too many is refused with numbers
host h1 4GiB
expect runs web 5GiB
then web nowhere
then cannot
then says needs 5GiB of memory, 4GiB free

story one impossible vm holds nobody up
host h1 4GiB
expect runs huge 64GiB
expect runs small 1GiB
then small on h1
then unmet huge
then huge nowhere
then cannot

story an impossible wish is no failure
host h1 4GiB
expect wish runs huge 64GiB
then unmet huge
then nothing

story a must is placed before a wish that was written first
host h1 4GiB
expect wish runs toy 3GiB
expect must runs web 3GiB
then web on h1
then toy nowhere
then unmet toy

story large ones first when the order of writing leaves one out
host h1 8GiB
host h2 6GiB
expect runs a 2GiB
expect runs b 6GiB
expect runs c 6GiB
then steps 3
then changes

story vcpus count as memory does
host h1 16GiB 2cpus
expect runs web 3cpus 1GiB
then web nowhere
then says needs 3 vcpus, 2 free

story an image that no host has
host h1 4GiB
expect runs web 1GiB disk=2GiB image=arch
then web nowhere
then says import image arch on h1

story the host with the image is taken
host h1 16GiB
host h2 4GiB image=arch
expect runs web 1GiB disk=2GiB image=arch
then web on h2

story an image comes along where its host has no room
host h1 16GiB
host h2 4GiB image=arch
expect runs web 8GiB disk=2GiB image=arch
then web on h1
then steps 1

story an image of a host that is lost comes from nowhere
host h1 16GiB
host h2 4GiB image=arch
event lost h2
expect runs web 1GiB disk=2GiB image=arch
then web nowhere
then says import image arch on h1

story a fresh host is preferred to a stale one
host h1 16GiB
host h2 3GiB
event stale h1
expect runs web 2GiB
then web on h2

story a stale host is the last resort
host h1 16GiB
host h2 3GiB
event stale h1
expect runs web 8GiB
then web on h1

story what runs already is left alone
host h1 4GiB
host h2 16GiB
vm web on h1 2GiB
expect runs web
then nothing
never move web

story what starts is waited for
host h1 4GiB
vm web on h1 starting 2GiB
expect runs web
then nothing
never start web

story a stopped vm starts where its disks are
host h1 16GiB
host h2 4GiB
vm web on h2 stopped 2GiB disk=2GiB
expect runs web
then web on h2
never to h1

story a crashed vm without disks may go anywhere
host h1 16GiB
host h2 4GiB
vm web on h2 crashed 2GiB
expect runs web
then web on h1

story stopping leaves the disks
host h1 4GiB
vm web on h1 1GiB disk=2GiB
expect is_stopped web
then web nowhere
then step stop web on h1
never delete web

story deleting stops first
host h1 4GiB
vm web on h1 1GiB
expect absent web
then step stop web on h1
then step delete web from h1
then steps 2

story a move by name
host h1 4GiB
host h2 4GiB
vm web on h1 1GiB
expect runs_on web h2
then web on h2
then step move web from h1 to h2

story a vm grows where it is
host h1 4GiB
host h2 8GiB
vm web on h1 1GiB
vm db on h1 1GiB
expect has_size web 3GiB
then web on h1
then step resize web on h1
then steps 1
never stop web

story a vm without room to grow stays as it is
host h1 4GiB
host h2 8GiB
vm web on h1 1GiB
vm db on h1 1GiB
without making room
expect has_size web 4GiB
then cannot
then says could have at most
then steps 0
never move web

story a host that cannot receive gets no guest
host h1 4GiB
host h2 4GiB cannot-receive
vm web on h1 1GiB
expect runs_on web h2
then web on h1
then cannot

story an unknown expectation blocks nothing and is told
host h1 4GiB
expect unknown moon_phase
expect runs web 1GiB
then web on h1
then changes
then not_understood moon_phase
