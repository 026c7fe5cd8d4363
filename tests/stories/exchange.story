# VMs that stand in each other's way.
story two change places over a third host, whichever of them is asked for first
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 4GiB
vm y on h2 4GiB
expect must host_label y rack=a
expect must host_label x rack=b
then x on h2
then y on h1
then steps 3
then changes

story a large and a small one change places, the small one beside the large one for a moment
host h1 8GiB rack=a
host h2 8GiB rack=b
vm small on h1 3GiB
vm rest on h1 2GiB
vm large on h2 5GiB
expect must no_migration rest
expect must host_label large rack=a
expect must host_label small rack=b
then step move small from h1 to h2
then step move large from h2 to h1
then steps 2

story and with a third host that has room for neither
host h1 8GiB rack=a
host h2 8GiB rack=b
host h3 2GiB rack=c
vm small on h1 3GiB
vm rest on h1 2GiB
vm large on h2 5GiB
expect must no_migration rest
expect must host_label small rack=b
expect must host_label large rack=a
then small on h2
then large on h1
then steps 2

story only the one that is asked for has room to step aside
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
expect must host_label x rack=b
expect must host_label y rack=a
then step move x from h1 to h3
then step move y from h2 to h1
then step move x from h3 to h2
then steps 3

story only the other one has room to step aside
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 4GiB
vm y on h2 2GiB
expect must host_label x rack=b
expect must host_label y rack=a
then x on h2
then y on h1
then steps 3
then changes

story who is in the way needs no rule of its own
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
expect must host_label x rack=b
then x on h2
then y on h1
then steps 3
then favour moves y to h1 so that x fits on h2

story who may not be moved is not moved for an exchange
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
expect must host_label x rack=b
expect must no_migration y
then violated host_label
then steps 0
never move y

story nobody steps aside to where what matters as much is broken, not even for a moment
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
vm z on h3 2GiB
expect must host_label x rack=b
expect must not_same_host x z
expect must no_migration z
then violated host_label
then steps 0
then cannot

story nor where it would end what matters less
host h1 5GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 2GiB
vm w on h1 1GiB
vm y on h2 4GiB
vm z on h3 2GiB
expect must host_label x rack=b
expect must not_same_host x z
expect should not_same_host x w
expect must no_migration z
expect must no_migration w
then violated host_label
then steps 0
never move x
never move y

story nor because another step on the way ends as much
host h1 4GiB rack=a
host h2 9GiB rack=b
host h3 8GiB rack=c
host h4 9GiB rack=d
vm y on h2 4GiB
vm c on h2 5GiB
vm z on h3 2GiB
vm x on h4 9GiB
expect must host_label x rack=b
expect must host_label y rack=a
expect must not_same_host c z
expect must no_migration z
then y on h1
then violated host_label
then steps 1
never move c

story but what only should be may be otherwise for as long
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
vm z on h3 2GiB
expect must host_label x rack=b
expect should not_same_host x z
expect must no_migration z
then x on h2
then y on h1
then steps 3
then kept not_same_host

story a drained host is nowhere to step aside to
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
drain h3
expect must host_label x rack=b
then violated host_label
never to h3

story three in a ring turn, with one host to spare
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
host h4 4GiB rack=d
vm a on h1 4GiB
vm b on h2 4GiB
vm c on h3 4GiB
expect must host_label a rack=b
expect must host_label b rack=c
expect must host_label c rack=a
then a on h2
then b on h3
then c on h1
then steps 4

story three in a ring turn, of which only the first has room to step aside
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
host h4 3GiB rack=d
vm a on h1 3GiB
vm b on h2 4GiB
vm c on h3 4GiB
expect must host_label a rack=b
expect must host_label b rack=c
expect must host_label c rack=a
then a on h2
then b on h3
then c on h1
then steps 4
then changes

story three in a ring turn, of which only the last has room to step aside
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
host h4 3GiB rack=d
vm a on h1 4GiB
vm b on h2 4GiB
vm c on h3 3GiB
expect must host_label a rack=b
expect must host_label b rack=c
expect must host_label c rack=a
then a on h2
then b on h3
then c on h1
then steps 4
then changes

story the place to step aside to is made first
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
host h4 2GiB rack=d
vm x on h1 4GiB
vm y on h2 4GiB
vm z on h3 2GiB
expect must host_label x rack=b
expect must host_label y rack=a
then x on h2
then y on h1
then z on h4
then steps 4

story the place for the only one that may step aside is made first
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 3GiB rack=c
host h4 2GiB rack=d
vm x on h1 3GiB
vm y on h2 4GiB
vm z on h3 2GiB
expect must host_label x rack=b
then x on h2
then y on h1
then z on h4
then steps 4

story who grows does not step aside for it
host h1 4GiB
host h2 4GiB
host h3 4GiB
vm a on h1 2GiB
vm b on h1 2GiB
vm c on h2 3GiB
vm d on h3 3GiB
expect must no_migration d
expect has_size a 4GiB
then unmet a
then steps 0
never move a

story a chain: each goes when the next has gone, so that one can start
host h1 10GiB
host h2 6GiB
host h3 3GiB
vm a on h1 5GiB
vm b on h2 3GiB
expect runs big 10GiB
then step move b from h2 to h3
then step move a from h1 to h2
then big on h1
then steps 3

story who has room where another is in the way may come there first, so that the other has room where it was
host h1 8GiB rack=a
host h2 6GiB rack=b
vm k on h1 2GiB
vm m on h1 4GiB
vm n on h2 2GiB
vm o on h2 1GiB
expect must no_migration k
expect must no_migration o
expect runs big 4GiB
expect must host_label big rack=a
then step move n from h2 to h1
then step move m from h1 to h2
then big on h1
then steps 3

story who is to be moved by command changes places too
host h1 4GiB
host h2 4GiB
host h3 2GiB
vm x on h1 2GiB
vm y on h2 4GiB
expect runs_on x h2
then x on h2
then y on h1
then steps 3

story two with no room to step aside anywhere are told the least that would do
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 4GiB
vm y on h2 3GiB
vm z on h3 2GiB
expect must host_label x rack=b
expect must host_label y rack=a
expect must no_migration z
then cannot
then steps 0
then says needs 4GiB of memory, 1GiB free
then says What would help: free 1GiB of memory on h3 (h3), so that y can wait there while x and y change places

story a host that is too small for either is nowhere to wait
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 4GiB
vm y on h2 3GiB
expect must host_label x rack=b
expect must host_label y rack=a
then cannot
then steps 0
then says What would help: another host with 3GiB of memory free, where y can wait while x and y change places

story two that are all there is are told what it takes
host h1 4GiB rack=a
host h2 4GiB rack=b
vm x on h1 4GiB
vm y on h2 3GiB
expect must host_label x rack=b
expect must host_label y rack=a
then cannot
then steps 0
then says What would help: another host with 3GiB of memory free, where y can wait while x and y change places

story where it is less, one leaves room for both beside each other
host h1 8GiB rack=a
host h2 8GiB rack=b
vm x on h1 5GiB
vm y on h2 5GiB
vm z on h2 2GiB
expect must no_migration z
expect must host_label x rack=b
then cannot
then steps 0
then says What would help: free 4GiB of memory on h2 (h2) for x

story two that are to be moved by command and have no room to step aside are told so
host h1 4GiB
host h2 4GiB
host h3 4GiB
vm x on h1 4GiB
vm y on h2 3GiB
vm z on h3 2GiB
expect must no_migration z
expect runs_on x h2
then unmet x
then steps 0
then says What would help: free 1GiB of memory on h3 (h3), so that y can wait there while x and y change places

story three in a ring without room to step aside are told the least that would do
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
host h4 4GiB rack=d
vm a on h1 4GiB
vm b on h2 4GiB
vm c on h3 3GiB
vm z on h4 2GiB
expect must host_label a rack=b
expect must host_label b rack=c
expect must host_label c rack=a
expect must no_migration z
then cannot
then steps 0
then says What would help: free 1GiB of memory on h4 (h4), so that c can wait there while a, b and c change places

story what is only a wish is told how places would be changed
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 2GiB rack=c
vm x on h1 2GiB
vm y on h2 4GiB
room for must only
expect wish host_label x rack=b
then steps 0
then says What would help: move x from h1 to h3, then move y from h2 to h1, then move x from h3 to h2
never move y

story who is to run on another host is told what it lacks there, as one that is to be moved is
host h1 4GiB
host h2 4GiB
vm x on h1 2GiB
vm y on h2 3GiB
expect must no_migration y
expect runs x on h2
then unmet x
then steps 0
then says needs 2GiB of memory, 1GiB free
