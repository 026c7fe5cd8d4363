//! Numbers and names as libvirt takes and gives them, and what it counts of domains.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::raw::c_int;
use std::ptr;

use uuid::Uuid;
use virt_sys as sys;

use super::{Connection, Domain, RawError, c_text, check, copy_text};

impl Connection {
    /// What is counted of every domain with a process, without waiting for those that something is
    /// being done with.
    pub(in crate::libvirt) fn stats(&self) -> Result<Vec<Counted>, RawError> {
        let which = sys::VIR_DOMAIN_STATS_CPU_TOTAL
            | sys::VIR_DOMAIN_STATS_BALLOON
            | sys::VIR_DOMAIN_STATS_INTERFACE
            | sys::VIR_DOMAIN_STATS_BLOCK;
        let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;
        let mut array: *mut sys::virDomainStatsRecordPtr = ptr::null_mut();
        // SAFETY: the connection is open; on success `array` is set to an array of libvirt's.
        let result = unsafe {
            sys::virConnectGetAllDomainStats(self.ptr.as_ptr(), which, &raw mut array, flags)
        };
        let count = usize::try_from(check(result)?).expect("checked to be no error");
        // SAFETY: the array has `count` valid records, each with a domain and `nparams` parameters,
        // until it is freed here with all of them.
        unsafe {
            let records = (0..count).map(|i| {
                let record = &**array.add(i);
                let params = usize::try_from(record.nparams).unwrap_or(0);
                let stats = (0..params).filter_map(|n| stat(&*record.params.add(n))).collect();
                // A handle of our own: the record frees the one that it has.
                sys::virDomainRef(record.dom);
                let domain = Domain::from_owned(record.dom)?;
                Ok(Counted { uuid: domain.uuid(), name: domain.name(), stats })
            });
            let records = records.collect();
            sys::virDomainStatsRecordListFree(array);
            records
        }
    }
}

/// What libvirt has counted of one domain.
pub(in crate::libvirt) struct Counted {
    pub(in crate::libvirt) uuid: Uuid,
    /// The domain's.
    pub(in crate::libvirt) name: String,
    /// By libvirt's names, such as `block.0.rd.bytes`.
    pub(in crate::libvirt) stats: BTreeMap<String, Stat>,
}

/// One named value that libvirt counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::libvirt) enum Stat {
    /// A count.
    Number(u64),
    /// A name.
    Text(String),
}

/// Name and value of a parameter; `None` for a negative number, a fraction and a type of a newer
/// libvirt.
///
/// # Safety
/// `param` is one that libvirt has filled in: its type says which member of its value is set.
unsafe fn stat(param: &sys::virTypedParameter) -> Option<(String, Stat)> {
    // SAFETY: libvirt ends the name with a NUL within its array; the type says what was set.
    unsafe {
        let value = match param.type_.unsigned_abs() {
            sys::VIR_TYPED_PARAM_INT => Stat::Number(u64::try_from(param.value.i).ok()?),
            sys::VIR_TYPED_PARAM_UINT => Stat::Number(param.value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => Stat::Number(u64::try_from(param.value.l).ok()?),
            sys::VIR_TYPED_PARAM_ULLONG => Stat::Number(param.value.ul),
            sys::VIR_TYPED_PARAM_STRING => Stat::Text(copy_text(param.value.s)),
            _ => return None,
        };
        Some((copy_text(param.field.as_ptr()), value))
    }
}

/// Named values as libvirt takes and gives them.
pub(in crate::libvirt) struct TypedParams {
    pub(super) ptr: sys::virTypedParameterPtr,
    pub(super) count: c_int,
    room: c_int,
}

impl Default for TypedParams {
    fn default() -> Self {
        Self { ptr: ptr::null_mut(), count: 0, room: 0 }
    }
}

impl TypedParams {
    pub(in crate::libvirt) fn add_text(
        &mut self,
        name: &CStr,
        value: &str,
    ) -> Result<(), RawError> {
        let value = c_text(value)?;
        let (params, count, room) = (&raw mut self.ptr, &raw mut self.count, &raw mut self.room);
        // SAFETY: the three describe one array, which libvirt may move; it copies both strings.
        check(unsafe {
            sys::virTypedParamsAddString(params, count, room, name.as_ptr(), value.as_ptr())
        })
        .map(drop)
    }

    pub(in crate::libvirt) fn add_number(
        &mut self,
        name: &CStr,
        value: u64,
    ) -> Result<(), RawError> {
        let (params, count, room) = (&raw mut self.ptr, &raw mut self.count, &raw mut self.room);
        // SAFETY: as in `add_text`.
        check(unsafe { sys::virTypedParamsAddULLong(params, count, room, name.as_ptr(), value) })
            .map(drop)
    }

    /// The number of this name, if there is one.
    pub(in crate::libvirt) fn number(&self, name: &CStr) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the array has `count` entries; `value` is ours.
        let found = unsafe {
            sys::virTypedParamsGetULLong(self.ptr, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    }

    /// The signed number of this name, if there is one.
    pub(in crate::libvirt) fn signed(&self, name: &CStr) -> Option<c_int> {
        let mut value = 0;
        // SAFETY: as above.
        let found = unsafe {
            sys::virTypedParamsGetInt(self.ptr, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    }
}

impl Drop for TypedParams {
    fn drop(&mut self) {
        // SAFETY: the array is null or ours, with `count` entries.
        unsafe { sys::virTypedParamsFree(self.ptr, self.count) };
    }
}
