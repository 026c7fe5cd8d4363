# Answers of several steps.
story a small vm moves so that a big one fits
host h1 16GiB
host h2 6GiB
vm small on h1 2GiB
expect runs big 15GiB
then big on h1
then small on h2
then steps 2

story without leave to make room the change is only told
host h1 16GiB
host h2 6GiB
vm small on h1 2GiB
without making room
expect runs big 15GiB
then big nowhere
then says move small from h1 to h2

story two must move
host h1 16GiB
host h2 6GiB
host h3 6GiB
vm s1 on h1 5GiB
vm s2 on h1 5GiB
expect runs big 16GiB
then big on h1
then steps 3

story a chain: one moves so that another may
host h1 10GiB
host h2 6GiB
host h3 4GiB
vm a on h1 4GiB
vm b on h2 3GiB
expect runs big 10GiB
then big on h1
then changes

story three must move
host h1 16GiB
host h2 6GiB
host h3 6GiB
host h4 6GiB
vm s1 on h1 5GiB
vm s2 on h1 5GiB
vm s3 on h1 5GiB
expect runs big 16GiB
then big on h1
then steps 4

story the fewest moves are taken, not the smallest vms
host h1 16GiB
host h2 16GiB
vm s1 on h1 1GiB
vm s2 on h1 1GiB
vm s3 on h1 1GiB
vm m on h1 4GiB
vm stay on h2 9GiB
expect must no_migration stay
expect runs big 13GiB
then big on h1
then steps 2
then m on h2

story a rule of a third vm is not broken to make room
host h1 16GiB rack=a
host h2 6GiB rack=b
vm small on h1 2GiB
expect must host_label small rack=a
expect runs big 15GiB
then small on h1
then big nowhere
never move small

story two vms change places over a third host
host h1 4GiB rack=a
host h2 4GiB rack=b
host h3 4GiB rack=c
vm x on h1 4GiB
vm y on h2 4GiB
expect must host_label x rack=b
expect must host_label y rack=a
then x on h2
then y on h1
then steps 3

story a pinned vm makes a place of its own
host h1 8GiB rack=a
host h2 8GiB rack=b
vm guest on h1 6GiB
expect runs pinned 4GiB
expect must host_label pinned rack=a
then pinned on h1
then guest on h2
then steps 2

story whoever is moved for another's sake is told for whose
host h1 16GiB
host h2 6GiB
vm small on h1 2GiB
expect runs big 15GiB
then big on h1
then favour moves small to h2 so that big fits on h1

story what fits without moves does nobody a favour
host h1 16GiB
host h2 6GiB
vm small on h2 2GiB
expect runs big 15GiB
then big on h1
then no favour

story what only should run has nobody moved when that is for musts
host h1 16GiB
host h2 6GiB
vm small on h1 2GiB
room for must only
expect should runs big 15GiB
then big nowhere
then says What would help: move small from h1 to h2
never move small

story what must run has others moved when that is for musts
host h1 16GiB
host h2 6GiB
vm small on h1 2GiB
room for must only
expect must runs big 15GiB
then big on h1
then small on h2

story others leave so that a vm grows where it is
host h1 8GiB
host h2 8GiB
vm a on h1 4GiB
vm b on h1 3GiB
vm c on h2 2GiB
expect has_size a 6GiB
then step move b from h1 to h2
then step resize a on h1
then steps 2
then favour moves b to h2 so that a fits on h1
then c on h2

story growth does not move what may not be moved
host h1 8GiB
host h2 8GiB
vm a on h1 4GiB
vm b on h1 3GiB
expect must no_migration b
expect has_size a 6GiB
then unmet a
then no favour

story without leave to make room growth is told what would help
host h1 8GiB
host h2 8GiB
vm a on h1 4GiB
vm b on h1 3GiB
without making room
expect has_size a 6GiB
then unmet a
then says What would help: move b from h1 to h2

story nobody leaves for a growth that no host could bear
host h1 8GiB
host h2 8GiB
vm a on h1 4GiB
vm b on h1 3GiB
expect has_size a 9GiB
then unmet a
then no favour

story room is not made on a drained host or with one
host h1 16GiB
host h3 6GiB
vm a on h1 4GiB
drain h3
expect runs big 15GiB
then big nowhere
never to h3
