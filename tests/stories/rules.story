# Expectations about where jobs are.
story a label is a must: the roomier host without it is not taken
host h1 16GiB rack=a
host h2 4GiB rack=b
expect runs web 2GiB
expect host_label web rack=b
then web on h2
then kept host_label

story a must that no host meets keeps the vm from starting
host h1 16GiB rack=a
expect runs web 2GiB
expect host_label web rack=b
then web nowhere
then cannot
then says which has rack=a

story a should that no host meets does not
host h1 16GiB rack=a
expect runs web 2GiB
expect should host_label web rack=b
then web on h1
then violated host_label
then changes

story a label is removed and the vm moves
host h1 16GiB rack=a
host h2 16GiB rack=b
vm web on h1 2GiB
expect host_label web rack=a
event relabel h1 rack=c
event relabel h2 rack=a
then web on h2
then kept host_label

story a host that does not say its architecture does not have it
host h1 16GiB
host h2 4GiB arch=aarch64
expect runs web 2GiB
expect host_arch web aarch64
then web on h2

story another architecture is refused
host h1 16GiB arch=x86_64
expect runs web 2GiB
expect host_arch web aarch64
then web nowhere
then says which has arch=x86_64

story a host is fast enough by its own number
host h1 16GiB cpu-mhz=2400
host h2 4GiB cpu-mhz=3100
expect runs db 2GiB
expect host_at_least db cpu-mhz 3000
then db on h2
then kept host_at_least

story a host that says no number does not have enough
host h1 16GiB
host h2 16GiB cpu-mhz=fast
host h3 16GiB cpu-mhz=2999
expect runs db 2GiB
expect host_at_least db cpu-mhz 3000
then db nowhere
then cannot
then says which has cpu-mhz=2999
then says which does not say its cpu-mhz

story a vm moves to where memory is checked when its host turns out to have none of that
host h1 16GiB memory-ecc=multi-bit
host h2 16GiB memory-ecc=multi-bit
vm db on h1 2GiB
expect host_label db memory-ecc=multi-bit
event relabel h1 memory-ecc=none
then db on h2
then kept host_label

story cpu features are all needed
host h1 16GiB cpu-features=avx2,aes
host h2 4GiB cpu-features=avx2,aes,avx512f
expect runs web 2GiB
expect cpu_features web avx2 avx512f
then web on h2

story a missing cpu feature is named
host h1 16GiB cpu-features=avx2
expect runs web 2GiB
expect cpu_features web avx2 avx512f
then web nowhere
then says whose CPU lacks avx512f

story anti-affinity forces a move
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB
vm b on h1 2GiB
expect not_same_host a b
then a apart from b
then steps 1
then changes

story anti-affinity binds a start
host h1 16GiB
host h2 4GiB
vm a on h1 2GiB
expect runs b 2GiB
expect not_same_host a b
then b on h2
never move a

story three apart on two hosts: two are placed and the third is told
host h1 16GiB
host h2 16GiB
expect runs a 1GiB
expect runs b 1GiB
expect runs c 1GiB
expect not_same_host a b c
then a apart from b
then c nowhere
then unmet c
then says two on one host

story three that should be apart run all the same
host h1 16GiB
host h2 16GiB
expect runs a 1GiB
expect runs b 1GiB
expect runs c 1GiB
expect should not_same_host a b c
then steps 3
then violated not_same_host
then changes

story together
host h1 16GiB
host h2 4GiB
vm a on h2 1GiB
expect runs b 1GiB
expect same_host a b
then b on h2

story together again after a split
host h1 16GiB
host h2 16GiB
vm a on h1 1GiB
vm b on h2 1GiB
expect same_host a b
then a with b
then steps 1

story at most one a rack
host h1 16GiB rack=a
host h2 16GiB rack=a
host h3 4GiB rack=b
vm x on h1 1GiB
expect runs y 1GiB
expect spread_over rack 1 x y
then y on h3

story at most two a rack
host h1 16GiB rack=a
host h2 16GiB rack=a
host h3 4GiB rack=b
vm x on h1 1GiB
expect runs y 1GiB
expect runs z 1GiB
expect spread_over rack 2 x y z
then kept spread_over
then steps 2

story hosts that do not say their rack may be one rack
host h1 16GiB
host h2 16GiB
vm x on h1 1GiB
vm y on h2 1GiB
expect spread_over rack 1 x y
then violated spread_over
then cannot

story a wish to stay is broken for a must
host h1 4GiB
host h2 4GiB
vm sticky on h1 2GiB
vm other on h1 2GiB
expect wish no_migration sticky
expect must no_migration other
expect must not_same_host sticky other
then sticky on h2
then other on h1

story a must to stay is not broken for a should
host h1 4GiB
host h2 4GiB
vm a on h1 1GiB
vm b on h1 1GiB
expect must no_migration a
expect must no_migration b
expect should not_same_host a b
then steps 0
then violated not_same_host
then nothing

story the one that may move moves
host h1 4GiB
host h2 4GiB
vm a on h1 1GiB
vm b on h1 1GiB
expect must no_migration a
expect should not_same_host a b
then a on h1
then b on h2

story any host can be lost
host h1 8GiB
host h2 8GiB
vm a on h1 4GiB
vm b on h2 4GiB
expect lose_any_host
then kept lose_any_host
then nothing

story a host that cannot be lost is named
host h1 8GiB
host h2 8GiB
vm a on h1 6GiB
vm b on h2 4GiB
expect should lose_any_host
then violated lose_any_host
then says h1 would strand 1 VMs: a

story the numbers of a host that cannot be lost are told
host h1 8GiB
host h2 8GiB
host h3 4GiB
vm a on h1 6GiB
vm b on h2 4GiB
vm c on h3 1GiB
expect should lose_any_host
then violated lose_any_host
then says h1 would strand 1 VMs: a (needs 6GiB of memory, 4GiB free)
then nothing

story a drained host is no place for what is lost
host h1 8GiB
host h2 8GiB
host h3 8GiB
vm a on h1 6GiB
vm b on h2 6GiB
drain h3
expect should lose_any_host
then violated lose_any_host

story a host that is lost already is not lost once more
host h1 8GiB
host h2 8GiB
host h3 8GiB
vm a on h1 6GiB
vm b on h2 1GiB
lost h1
expect should lose_any_host
then kept lose_any_host

story what fits only where it is packed tightly is not stranded
host h1 9GiB
host h2 5GiB
host h3 4GiB
vm a on h1 5GiB
vm b on h1 4GiB
expect lose_any_host
then kept lose_any_host

story any rack can be lost
host h1 8GiB rack=a
host h2 8GiB rack=a
host h3 8GiB rack=b
vm a on h1 4GiB
vm b on h2 4GiB
expect lose_any_domain rack
expect lose_any_host
then kept lose_any_domain
then nothing

story a rack that cannot be lost is named though each of its hosts can be
host h1 8GiB rack=a
host h2 8GiB rack=a
host h3 4GiB rack=b
vm a on h1 4GiB
vm b on h2 4GiB
expect should lose_any_domain rack
expect lose_any_host
then violated lose_any_domain
then kept lose_any_host
then says rack=a would strand 1 VMs: b
then nothing

story hosts that do not say their rack are lost together
host h1 8GiB rack=a
host h2 4GiB
host h3 8GiB
vm a on h2 4GiB
vm b on h3 8GiB
expect should lose_any_domain rack
then violated lose_any_domain
then says hosts without rack would strand 1 VMs: a
