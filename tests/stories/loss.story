# How soon a VM would run again after the loss of its host.
story one that may be lost runs elsewhere after the term of the arbiters and a start
host h1 16GiB
terms 9037ms
vm db on h1 2GiB may-be-lost
expect restart_within db 18s
then nothing
then kept restart_within

story a second less is too little
host h1 16GiB
terms 9037ms
vm db on h1 2GiB may-be-lost
expect restart_within db 17s
then violated restart_within
then cannot
then says db runs elsewhere within 18 s of its host's loss
then says What would help: 18 s or more
then steps 0

story without terms nothing is known
host h1 16GiB
vm db on h1 2GiB may-be-lost
expect restart_within db 3600s
then violated restart_within
then cannot
then says db may not run again within 3600 s: by which terms it would run elsewhere is not known

story one that is kept waits for a word that nobody may give
host h1 16GiB
terms 9037ms
vm db on h1 2GiB
expect restart_within db 3600s
then violated restart_within
then says it is kept until somebody says that its host is off, however long that takes
then says What would help: run it with `--on-loss stop`

story one that is kept waits for a device of which nobody knows how long it takes
host h1 16GiB
terms 9037ms fenced after 30s
vm db on h1 2GiB
expect restart_within db 3600s
then violated restart_within
then says which controllers do after 30 s of silence and after as long as its device takes, which nobody knows

story controllers that switch hosts off make no difference to one that may be lost
host h1 16GiB
terms 9037ms fenced after 30s
vm db on h1 2GiB may-be-lost
expect restart_within db 18s
then nothing

story disks on its host are lost with it
host h1 16GiB
terms 9037ms
vm db on h1 2GiB disk=4GiB may-be-lost
expect restart_within db 3600s
then violated restart_within
then says its disks are on its host, and lost with it
then says What would help: its disks in a pool that hosts share

story disks in a shared pool are found elsewhere
host h1 16GiB shared=san:100GiB
terms 9037ms
vm db on h1 2GiB disk=4GiB@san may-be-lost
expect restart_within db 18s
then nothing

story disks in a pool of its host's own are not
host h1 16GiB pool=fast:100GiB
terms 9037ms
vm db on h1 2GiB disk=4GiB@fast may-be-lost
expect restart_within db 3600s
then violated restart_within

story nobody is started who could not run again in time
host h1 16GiB
terms 9037ms
expect runs db 2GiB
expect restart_within db 60s
then db nowhere
then unmet db
then says it is kept until somebody says that its host is off

story but where it only should be so it is started and told
host h1 16GiB
terms 9037ms
expect runs db 2GiB
expect should restart_within db 60s
then db on h1
then violated restart_within

story nobody is moved for it, and what runs nowhere is not late
host h1 16GiB
host h2 16GiB
terms 9037ms
vm db on h1 2GiB
vm web on h1 2GiB stopped
expect restart_within db 60s
expect restart_within web 60s
then violated restart_within
then says db may not run again within 60 s
then steps 0
