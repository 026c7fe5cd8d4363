# VMs by the number, and who is started before whom.

story a group is so many VMs with a number each
host h1 8GiB
host h2 8GiB
expect group web 3 2GiB
then steps 3
then web-1 on h1 h2
then web-3 on h1 h2

story what runs of a group is left where it is and only the rest is started
host h1 8GiB
host h2 8GiB
vm web-2 on h1 2GiB
expect group web 3 2GiB
then steps 2
never start web-2
never move web-2

story a member that was given another size is what its host says it is
host h1 8GiB
vm web-1 on h1 3GiB
expect group web 1 2GiB
then nothing

story a smaller group ends nobody
host h1 8GiB
vm web-1 on h1 1GiB
vm web-2 on h1 1GiB
vm web-3 on h1 1GiB
expect group web 2 1GiB
then nothing
never stop web-3
never delete web-3

story the VMs of a spread group are on a host of their own each
host h1 16GiB
host h2 4GiB
host h3 4GiB
expect group web 3 2GiB apart
then web-1 apart from web-2
then web-2 apart from web-3
then web-1 apart from web-3

story a group that must be spread has no more than there are racks
host h1 8GiB rack=a
host h2 8GiB rack=a
host h3 8GiB rack=b
expect group web 3 1GiB per rack
then cannot
then steps 2
then web-1 apart from web-2
then unmet web-3
then says in rack=

story a spread that is only a wish leaves nobody out
host h1 8GiB
expect group web 2 1GiB apart wish
then steps 2
then violated spread_over

story what is started after another comes after it in the plan, whatever is named first
host h1 8GiB
expect runs app 1GiB
expect runs db 1GiB
expect starts_after app db
then db starts before app
then changes

story a chain is started from its end
host h1 8GiB
expect runs a 1GiB
expect runs b 1GiB
expect runs c 1GiB
expect runs d 1GiB
expect starts_after a b
expect starts_after b c
expect starts_after c d
then steps 4
then d starts before c
then c starts before b
then b starts before a

story who waits for one that nobody starts is told whom it waits for
host h1 8GiB
vm db on h1 1GiB stopped
expect runs app 1GiB
expect starts_after app db
then cannot
then steps 0
then says app: waits for db, which is stopped on h1

story one that is about to run does not run yet
host h1 8GiB
vm db on h1 1GiB starting
expect runs app 1GiB
expect starts_after app db
then steps 0
then says waits for db, which is starting on h1

story nobody starts after what a silent host may run
host h1 8GiB
host h2 8GiB
vm db on h1 1GiB
event lost h1
expect runs app 1GiB
expect starts_after app db
never start app

story what runs already goes on when the other has ended
host h1 8GiB
vm db on h1 1GiB stopped
vm app on h1 1GiB
expect runs app
expect starts_after app db
then nothing
never stop app

story an order that only should be leaves out nothing that must be
host h1 8GiB
vm db on h1 1GiB stopped
expect runs app 1GiB
expect should starts_after app db
then app on h1

story one who waits for two waits for both
host h1 8GiB
vm dns on h1 1GiB
expect runs app 1GiB
expect runs db 99GiB
expect starts_after app dns db
then cannot
never start app
then says app: waits for db, which no host has

story who waits in a circle is never started
host h1 8GiB
expect runs a 1GiB
expect runs b 1GiB
expect starts_after a b
expect starts_after b a
then cannot
then steps 0

story a whole group is started after another
host h1 8GiB
host h2 8GiB
expect group web 2 1GiB apart
expect group db 1 1GiB
expect starts_after web-1 db-1
expect starts_after web-2 db-1
then steps 3
then db-1 starts before web-1
then db-1 starts before web-2
