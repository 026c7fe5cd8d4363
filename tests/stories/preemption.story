# VMs that have agreed to it are stopped so that what matters more fits.
story what is preemptible is stopped for what matters more
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible
expect runs web 2GiB
then preemption stops batch on h1 so that web, which has a higher priority, fits there
then step stop batch on h1
then step start web on h1
then steps 2
then batch nowhere
then changes

story and nobody else is
host h1 4GiB
vm a on h1 3GiB priority=10
expect runs web 2GiB priority=100
then cannot
then unmet web
then no preemption
never stop a

story not for what matters as much
host h1 4GiB
vm batch on h1 3GiB preemptible
expect runs web 2GiB
then unmet web
never stop batch

story and not for less
host h1 4GiB
vm batch on h1 3GiB priority=60 preemptible
expect runs web 2GiB
then unmet web
never stop batch

story whoever has room comes first
host h1 4GiB
host h2 4GiB
vm batch on h1 3GiB priority=1 preemptible
vm other on h2 1GiB
expect runs web 2GiB
then web on h2
then steps 1
never stop batch

story others are moved before anybody is stopped, where they may be
host h1 4GiB
host h2 4GiB
vm batch on h1 2GiB priority=1 preemptible
vm other on h2 2GiB
expect runs web 4GiB
then no preemption
then steps 2
never stop batch

story and where they may not, who has agreed to it is stopped
host h1 4GiB
host h2 4GiB
vm batch on h1 2GiB priority=1 preemptible
vm other on h2 2GiB
without making room
expect runs web 4GiB
then preemption stops batch on h1 so that web, which has a higher priority, fits there
then web on h1
never stop other

story a sleeping host is woken before anybody is stopped
host h1 4GiB
host h2 4GiB
vm batch on h1 4GiB priority=1 preemptible
event asleep h2
event lost h2
expect runs web 2GiB
then step wake h2 for web
never stop batch

story of two hosts the one whose victim matters least
host h1 4GiB
host h2 4GiB
vm a on h1 4GiB priority=20 preemptible
vm b on h2 4GiB priority=10 preemptible
expect runs web 2GiB
then web on h2
then step stop b on h2
never stop a

story as few as are needed
host h1 8GiB
vm a on h1 2GiB priority=10 preemptible
vm b on h1 2GiB priority=20 preemptible
vm c on h1 2GiB priority=30 preemptible
vm d on h1 2GiB priority=40 preemptible
expect runs web 3GiB
then steps 3
then step stop a on h1
then step stop b on h1
never stop c
never stop d

story a larger one that matters more is spared while small ones do
host h1 8GiB
vm a on h1 1GiB priority=10 preemptible
vm b on h1 1GiB priority=10 preemptible
vm large on h1 6GiB priority=20 preemptible
expect runs web 2GiB
then step stop a on h1
then step stop b on h1
never stop large

story what one stop does not do is not begun
host h1 4GiB
vm batch on h1 1GiB priority=10 preemptible
vm db on h1 3GiB
expect runs web 2GiB
then unmet web
then no preemption
never stop batch

story disks that stay make no room
host h1 4GiB disk=4GiB
vm batch on h1 2GiB disk=3GiB priority=10 preemptible
expect runs web 1GiB disk=2GiB
then unmet web
never stop batch

story only for what must be
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible
expect should runs web 2GiB
then unmet web
never stop batch

story one that is protected is not stopped, whatever else it says
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible protected
expect runs web 2GiB
then unmet web
never stop batch

story what moves or starts is left alone
host h1 4GiB
vm batch on h1 3GiB starting priority=10 preemptible
expect runs web 2GiB
then unmet web
never stop batch

story a paused one is stopped like any other
host h1 4GiB
vm batch on h1 3GiB paused priority=10 preemptible
expect runs web 2GiB
then step stop batch on h1
then web on h1

story of two that are to run the one that matters more has the room
host h1 4GiB
expect runs low 3GiB priority=20
expect runs high 3GiB priority=80
then high on h1
then unmet low

story and who was kept before may have to go
host h1 4GiB
vm low on h1 3GiB priority=20 preemptible
expect runs low
expect runs high 3GiB priority=80
then step stop low on h1
then high on h1
then unmet low

story a rule that must hold is not broken for room
host h1 4GiB
host h2 4GiB
vm db on h1 1GiB
vm batch on h1 3GiB priority=1 preemptible
vm other on h2 4GiB
expect runs web 2GiB
expect not_same_host web db
then unmet web
never stop batch

story nobody is stopped where that is not wanted
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible
without preempting
expect runs web 2GiB
then unmet web
never stop batch

story a lost host's guests are nobody's room
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible
event lost h1
expect runs web 2GiB
then unmet web
never stop batch

story a host that is drained gets nothing new in anybody's place
host h1 4GiB
vm batch on h1 3GiB priority=10 preemptible
event drain h1
expect runs web 2GiB
then unmet web
never stop batch

story what may be stopped at any time needs no place when its host is lost
host h1 4GiB
host h2 4GiB
vm db on h1 2GiB
vm batch on h2 4GiB preemptible
expect should lose_any_host
then violated lose_any_host
then says h1 would strand 1 VMs: db

story and is not missed where it was
host h1 4GiB
host h2 4GiB
vm db on h1 1GiB
vm batch on h2 3GiB preemptible
vm large on h1 3GiB preemptible
expect should lose_any_host
then kept lose_any_host
