//! The names of dynamic servers: from them alone a sidecar without a memory knows what is its own, and for which
//! registration.

use crate::model::{Address, CookieValue, Registration, ServerName};

use super::tags::FixedTags;

/// `nomad-<first 8 of the allocation's ID>-<8 hex of a hash>`: desired and observed are compared by name alone.
/// Namespace and ID, address and fixed tags are in the hash; weight and maxconn are not, they change in place.
pub(super) fn dynamic_name(
    registration: &Registration,
    address: Address,
    fixed: &FixedTags,
) -> ServerName {
    let text = format!(
        "{}\0{}\0{address}\0{}",
        registration.service.namespace,
        registration.id,
        fixed.canonical()
    );
    let alloc: String = registration
        .alloc_id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .chain("00000000".chars())
        .take(8)
        .collect();
    let name = format!("nomad-{alloc}-{:08x}", fnv1a(&text));
    ServerName::new(&name).expect("letters, digits and dashes, 23 bytes")
}

/// Whether both are names of servers of one allocation.
pub(super) fn is_same_allocation(one: &ServerName, other: &ServerName) -> bool {
    // `nomad-`, eight characters of the allocation's ID, and a dash.
    is_dynamic_name(one) && one.as_str().get(..15) == other.as_str().get(..15)
}

/// Whether `name` is one that `dynamic_name` makes.
#[must_use]
pub fn is_dynamic_name(name: &ServerName) -> bool {
    let hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let Some((alloc, hash)) = name
        .as_str()
        .strip_prefix("nomad-")
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    let is_alloc = alloc.len() == 8 && alloc.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_alloc && hash.len() == 8 && hash.as_bytes().iter().all(hex)
}

/// The value of the cookie that leads to a registration's server, whatever name that has: clients stay with the instance
/// when its tags change.
pub(super) fn stable_cookie(namespace: &str, registration: &str) -> CookieValue {
    let hash = fnv1a_64(&format!("{namespace}\0{registration}"));
    CookieValue::new(&format!("{hash:016x}")).expect("sixteen digits")
}

/// FNV-1a of 64 bits, folded to 32. It has to stay the same for ever, which the standard library does not promise.
fn fnv1a(text: &str) -> u32 {
    let hash = fnv1a_64(text);
    u32::try_from((hash >> 32) ^ (hash & 0xffff_ffff)).expect("both halves have 32 bits")
}

fn fnv1a_64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
