# What a tenant's VMs may be like, and on which hosts, by the trust document.
story a tenant stays on its own hosts, though another one has more room
host h1 64GiB
host h2 8GiB owner=acme
policy acme host_labels owner=acme
expect runs web 2GiB tenant=acme
expect runs other 2GiB
then web on h2
then other on h1

story without a host of its own a tenant's vm is nowhere, and every host says why
host h1 64GiB owner=blue
host h2 64GiB
policy acme host_labels owner=acme
expect runs web 2GiB tenant=acme
then web nowhere
then cannot
then says no host can take it
then says h1 (h1): policy of tenant acme: host_labels: the host must have owner=acme, and has owner=blue
then says h2 (h2): policy of tenant acme: host_labels: the host must have owner=acme, and has no such label

story when the hosts of a tenant are full its vm does not go to others
host h1 64GiB
host h2 4GiB owner=acme
vm db on h2 3GiB tenant=acme
policy acme host_labels owner=acme
expect runs web 2GiB tenant=acme
then web nowhere
then says h2 (h2): needs 2GiB of memory, 1GiB free

story others are moved to make room on the hosts of a tenant, to where they may be
host h1 64GiB
host h2 4GiB owner=acme
vm guest on h2 3GiB tenant=blue
policy acme host_labels owner=acme
expect runs web 2GiB tenant=acme
then web on h2
then guest on h1
then step move guest from h2 to h1

story and not to where they may not be
host h1 64GiB
host h2 4GiB owner=acme
vm db on h2 3GiB tenant=acme
policy acme host_labels owner=acme
expect runs web 2GiB tenant=acme
never move db
then web nowhere

story a vm that is too large is told so once, with the rule and its numbers
host h1 64GiB
host h2 64GiB
policy acme vm_max 2cpus 4GiB
expect runs web 8GiB 4cpus tenant=acme
expect runs small 4GiB 2cpus tenant=acme
then web nowhere
then small on h1 h2
then cannot
then says web: policy of tenant acme: vm_max: one VM is to have 4 vcpus, at most 2; 8GiB of memory, at most 4GiB, head-room included

story an image that is not allowed is told, and one that is allowed is used
host h1 64GiB image=alpine-3
policy default images alpine-*
policy free vm_max 64GiB
expect runs web 2GiB disk=4GiB image=debian
expect runs small 2GiB disk=4GiB image=alpine-3
expect runs mine 2GiB disk=4GiB image=debian tenant=free
then web nowhere
then small on h1
then mine on h1
then says web: policy of tenant default, which is the default one: images: disk "d0" is made from debian; allowed: alpine-*

story a card is plugged only into what is allowed
host h1 64GiB
policy acme networks user network=blue-*
expect runs web 2GiB bridge=br0 tenant=acme
then web nowhere
then says networks: a card is plugged into bridge=br0; allowed: user, network=blue-*

story what runs against a policy that came later goes on, and a drain moves it
host h1 64GiB
host h2 64GiB
vm web on h1 8GiB tenant=acme
policy acme vm_max 4GiB
policy acme images none
expect runs web
drain h1
then web on h2
then step move web from h1 to h2
never stop web

story a drain moves a tenant's vm only to hosts of its own
host h1 64GiB owner=acme
host h2 64GiB
host h3 16GiB owner=acme
vm web on h1 2GiB tenant=acme
policy acme host_labels owner=acme
drain h1
then web on h3
never to h2

story and says what is in the way where there is none
host h1 64GiB owner=acme
host h2 64GiB owner=acme
vm web on h1 2GiB tenant=acme
policy acme host_labels owner=acme
event relabel h2 owner=blue
drain h1
then web on h1
then says cannot leave h1
then says the host must have owner=acme, and has owner=blue

story a host that has lost its label keeps what runs there
host h1 64GiB
host h2 64GiB owner=acme
vm web on h1 2GiB tenant=acme
policy acme host_labels owner=acme
expect runs web
then nothing
then web on h1
never stop web

story what has stopped is asked when it is started again
host h1 64GiB
vm web on h1 8GiB stopped tenant=acme
policy acme vm_max 4GiB
expect runs web
then web nowhere
then says vm_max

story another size is asked as far as it grows
host h1 64GiB
vm web on h1 8GiB tenant=acme
policy acme vm_max 4GiB
expect has_size web 6GiB
then step resize web on h1

story and refused where it grows too far
host h1 64GiB
vm web on h1 2GiB tenant=acme
policy acme vm_max 4GiB
expect has_size web 6GiB
then steps 0
then says 6GiB of memory, at most 4GiB
