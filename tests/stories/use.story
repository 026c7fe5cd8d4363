# Hosts whose guests are to use about as much of their CPUs.
story a busy vm goes from a busy host to an idle one, whatever is promised
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
vm c on h2 32GiB uses=0.4cpus
expect wish balanced 20% cpu
then steps 1
then a on h2
then shift move a from h1 to h2 as h1 is 75% busy and h2 5%
then kept balanced
then changes

story what is promised alone moves nobody
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 30GiB uses=0.2cpus
vm b on h1 30GiB uses=0.2cpus
expect wish balanced 20% cpu
then nothing
then kept balanced

story what guests use makes no difference to what is promised
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
expect wish balanced 30%
then nothing

story noise below what is tolerated moves nobody
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=1cpus
vm b on h1 1GiB uses=1.5cpus
vm c on h2 1GiB uses=1.2cpus
expect wish balanced 20% cpu
then nothing
then kept balanced

story once begun it goes on to half of what is tolerated
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=0.5cpus
vm b on h1 1GiB uses=1.5cpus
vm c on h2 1GiB uses=0.8cpus
balancing was begun
expect wish balanced 20% cpu
then steps 1
then a on h2

story a vm of which it is not known what it uses makes its host neither a source nor a target
host h1 64GiB 8cpus
host h2 64GiB 8cpus
host h3 64GiB 8cpus
host h4 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB
vm c on h2 1GiB uses=3cpus
vm d on h2 1GiB uses=3cpus
vm e on h3 1GiB
expect wish balanced 20% cpu
then steps 1
then c on h4
never to h3
never move a
then problem use_unknown
then says it is not known what guests on h3 use

story so does a host that does not say what its guests use
host h1 64GiB 8cpus
host h2 64GiB 8cpus unmeasured
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
expect wish balanced 20% cpu
then steps 0
never to h2
then says it is not known what guests on h2 use

story nothing known moves nobody and is told
host h1 64GiB 8cpus unmeasured
host h2 64GiB 8cpus unmeasured
vm a on h1 1GiB
vm b on h1 1GiB
expect wish balanced 20% cpu
then steps 0
then problem use_unknown

story nobody asks what guests use where nothing is expected of it
host h1 64GiB 8cpus unmeasured
vm a on h1 1GiB
expect wish balanced 20%
then no problem use_unknown

story a vm that was not watched for long stays and another one goes
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus watched=20s
vm b on h1 1GiB uses=2.5cpus
expect wish balanced 20% cpu
then steps 1
then a on h1
then b on h2

story it is said of whom more must be known
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus watched=20s
vm b on h1 1GiB uses=0.01cpus
expect wish balanced 20% cpu
then steps 0
then violated balanced
then says what a uses has been watched for 20 s, and not yet for 300
then says b uses next to nothing

story a move after which only the hosts had changed their roles is not made
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=6cpus
vm b on h2 1GiB uses=0.2cpus
expect wish balanced 20% cpu
then steps 0
then violated balanced
then says h1 is 75% busy and h2 2.5%: 72.5 points apart, and 20 may be
then says a would make any other host about as busy as h1 is

story nor is one that a little change would undo
host h1 64GiB 100cpus
host h2 64GiB 100cpus
vm a on h1 1GiB uses=57cpus
vm b on h1 1GiB uses=23cpus
vm c on h2 1GiB uses=20cpus
expect wish balanced 20% cpu
then steps 1
then a on h1
then b on h2

story vms that use next to nothing are not moved for it
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm huge on h1 1GiB uses=7cpus
vm a on h1 1GiB uses=0.015cpus
vm b on h1 1GiB uses=0.015cpus
expect wish balanced 20% cpu
then steps 0
then violated balanced

story memory still has to fit
host h1 64GiB 8cpus
host h2 8GiB 8cpus
vm a on h1 16GiB uses=3cpus
vm b on h1 4GiB uses=2cpus
expect wish balanced 20% cpu
then steps 1
then a on h1
then b on h2

story where it does not it is said why
host h1 64GiB 8cpus
host h2 8GiB 8cpus
vm a on h1 16GiB uses=3cpus
vm b on h1 16GiB uses=3cpus
expect wish balanced 20% cpu
then steps 0
then violated balanced
then says needs 16GiB of memory, 8GiB free

story a vm that is to stay stays
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=2.5cpus
expect wish balanced 20% cpu
expect no_migration a
then a on h1
then b on h2

story so does one that is expected where it is
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=2.5cpus
expect wish balanced 20% cpu
expect wish runs_on a h1
then a on h1
then b on h2

story a protected vm is moved like any other as it runs on
host h1 64GiB 8cpus others=3cpus
host h2 64GiB 8cpus
vm a on h1 1GiB protected uses=3cpus
expect wish balanced 20% cpu
then a on h2

story not even a wish is broken for it
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
vm c on h2 1GiB uses=0cpus
expect wish not_same_host a c
expect wish not_same_host b c
expect must balanced 20% cpu
then steps 0
then violated balanced

story two hosts that are both busy have nobody to give to
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3.8cpus
vm b on h1 1GiB uses=3.8cpus
vm c on h2 1GiB uses=3.7cpus
vm d on h2 1GiB uses=3.7cpus
expect wish balanced 20% cpu
then steps 0
then kept balanced
then problem busy
then says guests on h1 keep 7.6 of its 8 CPUs busy

story two busy hosts give to two idle ones
host h1 64GiB 8cpus
host h2 64GiB 8cpus
host h3 64GiB 8cpus
host h4 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
vm c on h2 1GiB uses=3cpus
vm d on h2 1GiB uses=3cpus
expect wish balanced 20% cpu
then steps 2
then c on h3
then a on h4
then kept balanced

story a machine with more cpus is less busy with the same
host h1 64GiB 8cpus
host h2 64GiB 32cpus
vm a on h1 1GiB uses=2cpus
vm b on h1 1GiB uses=2cpus
vm c on h2 1GiB uses=4cpus
expect wish balanced 20% cpu
then steps 1
then a on h2

story guests that are no jobs count, and are not moved
host h1 64GiB 8cpus others=5cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=2cpus
expect wish balanced 20% cpu
then steps 1
then a on h2
then violated balanced
then says h1 is 62.5% busy and h2 25%

story a lost host and one that is drained count as none
host h1 64GiB 8cpus
host h2 64GiB 8cpus
host h3 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
event lost h2
event drain h3
expect wish balanced 20% cpu
then steps 0
then kept balanced

story only hosts with the labels count
host h1 64GiB 8cpus rack=a
host h2 64GiB 8cpus rack=a
host h3 64GiB 8cpus rack=b
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
vm c on h2 1GiB uses=1cpus
expect wish balanced 20% cpu rack=a
then a on h2
never to h3

story where no move is wanted the first is told
host h1 64GiB 8cpus
host h2 64GiB 8cpus
vm a on h1 1GiB uses=3cpus
vm b on h1 1GiB uses=3cpus
balance is only told
expect wish balanced 20% cpu
then steps 0
then violated balanced
then says move a from h1 to h2

story hosts that are balanced by both come no further apart by either
host h1 16GiB 16cpus
host h2 16GiB 16cpus others=3cpus
vm a on h1 7GiB uses=1cpus
vm b on h2 6656MiB uses=4cpus
vm c on h2 512MiB uses=3cpus
expect wish balanced 20% cpu
expect wish balanced 20%
then steps 1
then c on h1
then b on h2
then kept balanced

story where a move for the one would be undone for the other nobody moves
host h1 16GiB 16cpus
host h2 16GiB 16cpus
vm a on h1 8GiB uses=1cpus
vm b on h2 7GiB uses=6cpus
expect wish balanced 20% cpu
expect wish balanced 20%
then steps 0
then violated balanced
