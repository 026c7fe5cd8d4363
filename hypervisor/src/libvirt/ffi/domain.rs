//! Domains as safe values: what can be asked of one, and done with it.

use std::os::raw::c_int;
use std::ptr::{self, NonNull};

use uuid::Uuid;
use virt_sys as sys;

use protocol::cpus::CpuSet;

use super::{RawError, TypedParams, c_text, check, copy_text, take_text};
use crate::cards::Listed;

/// Numbers that libvirt knows of a guest's memory; more than there are today.
const STATS_MAX: usize = 32;

/// What a guest has said of its memory.
#[derive(Debug, Clone, Copy)]
pub(in crate::libvirt) struct MemoryStats {
    /// What it could give away without missing it.
    pub(in crate::libvirt) usable_kib: Option<u64>,
    /// When it said so, in seconds; `None`: never.
    pub(in crate::libvirt) last_update: Option<u64>,
}

/// A domain. It keeps its connection open.
pub(in crate::libvirt) struct Domain(NonNull<sys::_virDomain>);

// SAFETY: libvirt's objects may be used from any thread, and by several at once.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    pub(super) fn from_owned(ptr: sys::virDomainPtr) -> Result<Self, RawError> {
        NonNull::new(ptr).map(Self).ok_or_else(RawError::last)
    }

    pub(super) fn ptr(&self) -> sys::virDomainPtr {
        self.0.as_ptr()
    }

    pub(in crate::libvirt) fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        // SAFETY: the domain is valid and `bytes` has the 16 bytes that libvirt writes.
        unsafe { sys::virDomainGetUUID(self.ptr(), bytes.as_mut_ptr()) };
        Uuid::from_bytes(bytes)
    }

    pub(in crate::libvirt) fn name(&self) -> String {
        // SAFETY: the domain is valid; the name lives as long as it.
        unsafe { copy_text(sys::virDomainGetName(self.ptr())) }
    }

    /// `virDomainState` and its reason.
    pub(in crate::libvirt) fn state(&self) -> Result<(u32, u32), RawError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: the domain is valid; both numbers are ours.
        let result =
            unsafe { sys::virDomainGetState(self.ptr(), &raw mut state, &raw mut reason, 0) };
        check(result)?;
        Ok((state.unsigned_abs(), reason.unsigned_abs()))
    }

    /// CPUs, memory in KiB, and what of it the guest has not given back.
    pub(in crate::libvirt) fn size(&self) -> Result<(u32, u64, u64), RawError> {
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::virDomainInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the domain is valid; `info` is ours.
        check(unsafe { sys::virDomainGetInfo(self.ptr(), &raw mut info) })?;
        Ok((info.nrVirtCpu.into(), info.maxMem, info.memory))
    }

    pub(in crate::libvirt) fn set_vcpus(&self, vcpus: u32, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetVcpusFlags(self.ptr(), vcpus, flags) }).map(drop)
    }

    /// How many virtual CPUs it can have while it runs.
    pub(in crate::libvirt) fn vcpus_possible(&self) -> Result<u32, RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainGetMaxVcpus(self.ptr()) }).map(i32::unsigned_abs)
    }

    /// Where a virtual CPU runs.
    pub(in crate::libvirt) fn pin_vcpu(
        &self,
        vcpu: u32,
        cpus: &CpuSet,
        flags: u32,
    ) -> Result<(), RawError> {
        let mut map = bits(cpus);
        let bytes = i32::try_from(map.len()).unwrap_or(i32::MAX);
        // SAFETY: the domain is valid; `map` has so many bytes, which libvirt only reads.
        check(unsafe {
            sys::virDomainPinVcpuFlags(self.ptr(), vcpu, map.as_mut_ptr(), bytes, flags)
        })
        .map(drop)
    }

    /// Where all other threads run, those for disks aside that have some of their own.
    pub(in crate::libvirt) fn pin_emulator(
        &self,
        cpus: &CpuSet,
        flags: u32,
    ) -> Result<(), RawError> {
        let mut map = bits(cpus);
        let bytes = i32::try_from(map.len()).unwrap_or(i32::MAX);
        // SAFETY: the domain is valid; `map` has so many bytes, which libvirt only reads.
        check(unsafe { sys::virDomainPinEmulator(self.ptr(), map.as_mut_ptr(), bytes, flags) })
            .map(drop)
    }

    pub(in crate::libvirt) fn set_memory(&self, kib: u64, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetMemoryFlags(self.ptr(), kib, flags) }).map(drop)
    }

    /// How often a guest says how much memory it uses, in seconds; 0 for never.
    pub(in crate::libvirt) fn set_memory_stats_period(
        &self,
        s: u16,
        flags: u32,
    ) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSetMemoryStatsPeriod(self.ptr(), s.into(), flags) }).map(drop)
    }

    /// What the guest has said last of its memory.
    pub(in crate::libvirt) fn memory_stats(&self) -> Result<MemoryStats, RawError> {
        let mut said = [sys::virDomainMemoryStatStruct { tag: 0, val: 0 }; STATS_MAX];
        let room = u32::try_from(said.len()).expect("a handful");
        // SAFETY: the domain is valid; libvirt writes at most `room` entries of the array.
        let count =
            check(unsafe { sys::virDomainMemoryStats(self.ptr(), said.as_mut_ptr(), room, 0) })?;
        let count = usize::try_from(count).expect("checked to be no error");
        let of = |tag: u32| {
            let found = said[..count].iter().find(|stat| stat.tag.unsigned_abs() == tag);
            found.map(|stat| stat.val)
        };
        Ok(MemoryStats {
            usable_kib: of(sys::VIR_DOMAIN_MEMORY_STAT_USABLE),
            last_update: of(sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE),
        })
    }

    /// Plugs a device in.
    pub(in crate::libvirt) fn attach(&self, device: &str, flags: u32) -> Result<(), RawError> {
        let device = c_text(device)?;
        // SAFETY: the domain is valid; a C string that outlives the call.
        check(unsafe { sys::virDomainAttachDeviceFlags(self.ptr(), device.as_ptr(), flags) })
            .map(drop)
    }

    /// Asks the guest for a device, and does not wait for it.
    pub(in crate::libvirt) fn detach(&self, alias: &str, flags: u32) -> Result<(), RawError> {
        let alias = c_text(alias)?;
        // SAFETY: the domain is valid; a C string that outlives the call.
        check(unsafe { sys::virDomainDetachDeviceAlias(self.ptr(), alias.as_ptr(), flags) })
            .map(drop)
    }

    pub(in crate::libvirt) fn is_persistent(&self) -> Result<bool, RawError> {
        // SAFETY: the domain is valid.
        Ok(check(unsafe { sys::virDomainIsPersistent(self.ptr()) })? == 1)
    }

    /// The element with this namespace in the domain's metadata.
    pub(in crate::libvirt) fn metadata(&self, namespace: &str) -> Result<String, RawError> {
        let namespace = c_text(namespace)?;
        let kind = metadata_element();
        // SAFETY: the domain is valid; a C string that outlives the call; the result is ours.
        unsafe { take_text(sys::virDomainGetMetadata(self.ptr(), kind, namespace.as_ptr(), 0)) }
    }

    /// Replaces or takes out the element with this namespace, now and in the definition.
    pub(in crate::libvirt) fn set_metadata(
        &self,
        prefix: &str,
        namespace: &str,
        element: Option<&str>,
        flags: u32,
    ) -> Result<(), RawError> {
        let (prefix, namespace) = (c_text(prefix)?, c_text(namespace)?);
        let element = element.map(c_text).transpose()?;
        let text = element.as_ref().map_or(ptr::null(), |element| element.as_ptr());
        // SAFETY: the domain is valid; C strings that outlive the call, and null for "none".
        check(unsafe {
            sys::virDomainSetMetadata(
                self.ptr(),
                metadata_element(),
                text,
                prefix.as_ptr(),
                namespace.as_ptr(),
                flags,
            )
        })
        .map(drop)
    }

    /// Hardware addresses and IP addresses of its interfaces, as one of `virDomainInterfaceAddressesSource`
    /// has them.
    pub(in crate::libvirt) fn interfaces(&self, source: u32) -> Result<Vec<Listed>, RawError> {
        let mut array = ptr::null_mut();
        // SAFETY: the domain is valid; `array` is ours.
        let result =
            unsafe { sys::virDomainInterfaceAddresses(self.ptr(), &raw mut array, source, 0) };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: on success libvirt has allocated `count` interfaces for us, and the array itself.
        unsafe {
            let interfaces = (0..count).map(|i| take_interface(*array.add(i))).collect();
            libc::free(array.cast());
            Ok(interfaces)
        }
    }

    /// How long the guest's agent may take to answer whatever it is asked, in seconds, or one of
    /// `virDomainAgentResponseTimeoutValues`.
    pub(in crate::libvirt) fn set_agent_timeout(&self, timeout: c_int) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainAgentSetResponseTimeout(self.ptr(), timeout, 0) }).map(drop)
    }

    pub(in crate::libvirt) fn xml(&self, flags: u32) -> Result<String, RawError> {
        // SAFETY: the domain is valid; the result is ours.
        unsafe { take_text(sys::virDomainGetXMLDesc(self.ptr(), flags)) }
    }

    /// The size of a disk as the guest sees it.
    pub(in crate::libvirt) fn disk_bytes(&self, target: &str) -> Result<u64, RawError> {
        let target = c_text(target)?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut info: sys::virDomainBlockInfo = unsafe { std::mem::zeroed() };
        // SAFETY: the domain is valid; a C string that outlives the call; `info` is ours.
        check(unsafe {
            sys::virDomainGetBlockInfo(self.ptr(), target.as_ptr(), &raw mut info, 0)
        })?;
        Ok(info.capacity)
    }

    /// Makes a disk of a running guest this large; also smaller.
    pub(in crate::libvirt) fn resize_disk(&self, target: &str, bytes: u64) -> Result<(), RawError> {
        let (target, flags) = (c_text(target)?, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES);
        // SAFETY: the domain is valid; a C string that outlives the call.
        check(unsafe { sys::virDomainBlockResize(self.ptr(), target.as_ptr(), bytes, flags) })
            .map(drop)
    }

    /// What its QEMU answers to a command of its protocol, errors included.
    pub(in crate::libvirt) fn ask_qemu(&self, command: &str) -> Result<String, RawError> {
        let command = c_text(command)?;
        let mut answer = ptr::null_mut();
        // SAFETY: the domain is valid; a C string that outlives the call; `answer` is set to a string of
        // ours when the call succeeds.
        unsafe {
            check(sys::virDomainQemuMonitorCommand(
                self.ptr(),
                command.as_ptr(),
                &raw mut answer,
                sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT,
            ))?;
            take_text(answer)
        }
    }

    pub(in crate::libvirt) fn create(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainCreateWithFlags(self.ptr(), flags) }).map(drop)
    }

    pub(in crate::libvirt) fn shutdown(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainShutdownFlags(self.ptr(), flags) }).map(drop)
    }

    pub(in crate::libvirt) fn destroy(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid; it stays so, as a handle.
        check(unsafe { sys::virDomainDestroy(self.ptr()) }).map(drop)
    }

    pub(in crate::libvirt) fn suspend(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainSuspend(self.ptr()) }).map(drop)
    }

    pub(in crate::libvirt) fn resume(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainResume(self.ptr()) }).map(drop)
    }

    pub(in crate::libvirt) fn reset(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainReset(self.ptr(), 0) }).map(drop)
    }

    pub(in crate::libvirt) fn reboot(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainReboot(self.ptr(), flags) }).map(drop)
    }

    pub(in crate::libvirt) fn managed_save(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainManagedSave(self.ptr(), 0) }).map(drop)
    }

    pub(in crate::libvirt) fn has_managed_save(&self) -> Result<bool, RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainHasManagedSaveImage(self.ptr(), 0) }).map(|has| has == 1)
    }

    pub(in crate::libvirt) fn remove_managed_save(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainManagedSaveRemove(self.ptr(), 0) }).map(drop)
    }

    pub(in crate::libvirt) fn undefine(&self, flags: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid; it stays so, as a handle.
        check(unsafe { sys::virDomainUndefineFlags(self.ptr(), flags) }).map(drop)
    }

    pub(in crate::libvirt) fn migrate(
        &self,
        libvirt_uri: &str,
        params: &TypedParams,
        flags: u32,
    ) -> Result<(), RawError> {
        let uri = c_text(libvirt_uri)?;
        let count = params.count.unsigned_abs();
        // SAFETY: the domain is valid; a C string that outlives the call; `params` has `count`
        // entries, which libvirt only reads.
        check(unsafe {
            sys::virDomainMigrateToURI3(self.ptr(), uri.as_ptr(), params.ptr, count, flags)
        })
        .map(drop)
    }

    pub(in crate::libvirt) fn abort_job(&self) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainAbortJob(self.ptr()) }).map(drop)
    }

    /// `virDomainJobType`, and the numbers that come with it.
    pub(in crate::libvirt) fn job_stats(&self) -> Result<(u32, TypedParams), RawError> {
        let mut kind = 0;
        let mut stats = TypedParams::default();
        // SAFETY: the domain is valid; libvirt allocates the parameters, which `stats` then owns.
        check(unsafe {
            let (params, count) = (&raw mut stats.ptr, &raw mut stats.count);
            sys::virDomainGetJobStats(self.ptr(), &raw mut kind, params, count, 0)
        })?;
        Ok((kind.unsigned_abs(), stats))
    }

    /// For how long the guest may stand still at the end of the migration that is under way.
    pub(in crate::libvirt) fn max_downtime_ms(&self) -> Result<u64, RawError> {
        let mut downtime_ms = 0;
        // SAFETY: the domain is valid, and the number outlives the call.
        check(unsafe { sys::virDomainMigrateGetMaxDowntime(self.ptr(), &raw mut downtime_ms, 0) })?;
        Ok(downtime_ms)
    }

    pub(in crate::libvirt) fn set_max_downtime_ms(&self, downtime_ms: u32) -> Result<(), RawError> {
        // SAFETY: the domain is valid.
        check(unsafe { sys::virDomainMigrateSetMaxDowntime(self.ptr(), downtime_ms.into(), 0) })
            .map(drop)
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { sys::virDomainFree(self.ptr()) };
    }
}

/// A bit for each CPU, the first in the lowest of the first byte.
fn bits(cpus: &CpuSet) -> Vec<u8> {
    let mut map = Vec::new();
    for cpu in cpus.iter().filter_map(|cpu| usize::try_from(cpu).ok()) {
        if map.len() <= cpu / 8 {
            map.resize(cpu / 8 + 1, 0);
        }
        map[cpu / 8] |= 1 << (cpu % 8);
    }
    map
}

/// Copies and frees an interface with its addresses.
///
/// # Safety
/// `interface` was allocated by libvirt and is used nowhere else.
unsafe fn take_interface(interface: sys::virDomainInterfacePtr) -> Listed {
    // SAFETY: by the caller's promise; texts are null or C strings, and there are `naddrs` addresses.
    unsafe {
        let mac = copy_text((*interface).hwaddr);
        let count = usize::try_from((*interface).naddrs).unwrap_or(0);
        let ips = (0..count).map(|i| copy_text((*(*interface).addrs.add(i)).addr)).collect();
        sys::virDomainInterfaceFree(interface);
        Listed { mac, ips }
    }
}

fn metadata_element() -> c_int {
    c_int::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).expect("metadata types are small")
}
