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
