# Expectations about where disks are.
story two that share their host's disk are parted, and their disks go along
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB disk=4GiB
vm b on h1 2GiB disk=4GiB
expect not_same_storage a b
then steps 1
then kept not_same_storage
never stop a
never stop b

story two hosts are two storages
host h1 16GiB
host h2 16GiB
vm a on h1 2GiB disk=4GiB
vm b on h2 2GiB disk=4GiB
expect not_same_storage a b
then nothing
then kept not_same_storage

story two in one shared pool are in one storage wherever they run, and nobody is moved in vain
host h1 16GiB shared=san:100GiB
host h2 16GiB shared=san:100GiB
vm a on h1 2GiB disk=4GiB@san
vm b on h2 2GiB disk=4GiB@san
expect not_same_storage a b
then steps 0
then violated not_same_storage
then says a, b have disks in shared pool san

story a pool of one host's own is another one than the next host's of that name
host h1 16GiB pool=fast:100GiB
host h2 16GiB pool=fast:100GiB
vm a on h1 2GiB disk=4GiB@fast
vm b on h2 2GiB disk=4GiB@fast
expect not_same_storage a b
then nothing
then kept not_same_storage

story one in a shared pool and one on the host's own disk may be on one host
host h1 16GiB shared=san:100GiB
vm a on h1 2GiB disk=4GiB@san
vm b on h1 2GiB disk=4GiB
expect not_same_storage a b
then nothing
then kept not_same_storage

story one without a disk harms nobody
host h1 16GiB
vm a on h1 2GiB
vm b on h1 2GiB disk=4GiB
expect not_same_storage a b
then nothing
then kept not_same_storage

story a new one goes where the other's disk is not
host h1 16GiB
host h2 4GiB
vm a on h1 2GiB disk=4GiB
expect runs b 2GiB disk=4GiB
expect not_same_storage a b
then b on h2
then kept not_same_storage

story a new one that finds no other storage waits, and is told why
host h1 16GiB
vm a on h1 2GiB disk=4GiB
expect runs b 2GiB disk=4GiB
expect not_same_storage a b
then b nowhere
then cannot
then says a, b have disks in pool default of h1

story as a should it does not wait
host h1 16GiB
vm a on h1 2GiB disk=4GiB
expect runs b 2GiB disk=4GiB
expect should not_same_storage a b
then b on h1
then violated not_same_storage

# What pools say of themselves.
story a disk in a pool of the right class stays
host h1 16GiB pool=fast:100GiB,class=ssd
host h2 16GiB pool=fast:100GiB,class=ssd
vm db on h1 2GiB disk=4GiB@fast
expect storage_class db class=ssd
then nothing
then kept storage_class

story a disk in a pool of another class goes along to where that pool is of the right one
host h1 16GiB pool=fast:100GiB,class=disk
host h2 16GiB pool=fast:100GiB,class=ssd
host h3 16GiB pool=fast:100GiB
vm db on h1 2GiB disk=4GiB@fast
expect storage_class db class=ssd
then db on h2
then steps 1
never stop db

story a pool that does not say its class is not of the one asked for
host h1 16GiB pool=fast:100GiB
host h2 16GiB pool=fast:100GiB
vm db on h1 2GiB disk=4GiB@fast
expect storage_class db class=ssd
then violated storage_class
then cannot
then says db has disks in pool fast of h1, which does not say its class
then steps 0

story a host's own folder has no class
host h1 16GiB class=ssd
vm db on h1 2GiB disk=4GiB
expect storage_class db class=ssd
then violated storage_class
then says db has disks in the own folder of h1, which has no labels

story every pool with disks of a vm must be of the class, and ephemeral disks and none are no disks
host h1 16GiB pool=fast:100GiB,class=ssd pool=slow:100GiB,class=disk
vm db on h1 2GiB disk=4GiB@fast disk=4GiB@slow
vm web on h1 2GiB
expect storage_class db class=ssd
expect storage_class web class=ssd
then violated storage_class
then says db has disks in pool slow of h1, which has class=disk
then steps 0

story a new one comes to where its pool is of the class
host h1 64GiB pool=fast:100GiB,class=disk
host h2 16GiB pool=fast:100GiB,class=ssd
expect runs db 2GiB disk=4GiB@fast
expect storage_class db class=ssd
then db on h2
then steps 1

story a pool of another class is told of when it is too late for a start anywhere else
host h1 16GiB pool=fast:100GiB,class=disk
expect runs db 2GiB disk=4GiB@fast
expect storage_class db class=ssd
then db nowhere
then unmet db
then says has room, but must not: db has disks in pool fast of h1, which has class=disk

story what is said anew of a pool counts
host h1 16GiB pool=fast:100GiB,class=ssd
host h2 16GiB pool=fast:100GiB,class=ssd
vm db on h1 2GiB disk=4GiB@fast
expect storage_class db class=ssd
event relabel h1 fast class=disk
then db on h2
then steps 1

story a shared pool is moved away from by nobody, whatever it says
host h1 16GiB shared=san:100GiB,class=disk
host h2 16GiB shared=san:100GiB,class=disk
vm db on h1 2GiB disk=4GiB@san
expect storage_class db class=ssd
then violated storage_class
then steps 0

story two copies are two copies or more
host h1 16GiB shared=san:100GiB,copies=3,boxes=3
vm db on h1 2GiB disk=4GiB@san
expect storage_copies db 2
expect storage_copies db 2 over 2
expect storage_copies db 3 over 3
then nothing
then kept storage_copies

story one copy fewer is too few
host h1 16GiB shared=san:100GiB,copies=3,boxes=3
vm db on h1 2GiB disk=4GiB@san
expect storage_copies db 4
then violated storage_copies
then says db has disks in pool san of h1, which has copies=3

story copies in one box are not over boxes, nor are those of a pool that does not say
host h1 16GiB pool=mirror:100GiB,copies=2
vm db on h1 2GiB disk=4GiB@mirror
expect storage_copies db 2
expect should storage_copies db 2 over 2
then violated storage_copies
then says db has disks in pool mirror of h1, which does not say its boxes
then nothing

story what is no number is no number of copies
host h1 16GiB pool=mirror:100GiB,copies=many
vm db on h1 2GiB disk=4GiB@mirror
expect storage_copies db 1
then violated storage_copies
then says db has disks in pool mirror of h1, which has copies=many

story a host's own folder keeps no copies that anybody knows of
host h1 16GiB
host h2 16GiB pool=mirror:100GiB,copies=2
vm db on h1 2GiB disk=4GiB
expect storage_copies db 1
then violated storage_copies
then steps 0

story a disk goes along to where more copies of it are kept
host h1 16GiB pool=data:100GiB,copies=1
host h2 16GiB pool=data:100GiB,copies=2
vm db on h1 2GiB disk=4GiB@data
expect storage_copies db 2
then db on h2
then steps 1
