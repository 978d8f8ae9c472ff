//! The hello message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::decode::WireError;
use super::versions::Versions;
use crate::identity::{NAME_BYTES_MAX, ROLES_MAX, Role};

/// Bytes before the name.
pub(super) const FIXED_BYTES: usize = 12;

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version spoken.
    pub version_min: u8,
    /// Highest version spoken.
    pub version_max: u8,
    /// Bits 0–31 optional, 32–63 critical.
    pub capabilities: u64,
    /// The node's name; 1–64 bytes.
    pub name: String,
    /// The roles in which it takes part; at most 128. Roles unknown to this version are left out when read.
    pub roles: Vec<Role>,
}

impl Hello {
    /// The critical half of the capabilities.
    pub const CRITICAL: u64 = 0xffff_ffff_0000_0000;

    /// The bit of a sender that takes [datagrams](super#datagrams).
    pub const DATAGRAMS: u64 = 1 << 0;

    /// The hello of one who speaks these versions, without capabilities.
    #[must_use]
    pub fn new(name: &str, roles: &[Role], versions: Versions) -> Self {
        Self {
            version_min: versions.min(),
            version_max: versions.max(),
            capabilities: 0,
            name: name.to_owned(),
            roles: roles.to_vec(),
        }
    }

    /// Names and roles come from certificates, where they were bounded: what would not fit its length byte is cut.
    pub(super) fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(FIXED_BYTES + self.name.len() + 16 * self.roles.len());
        let name = self
            .name
            .as_bytes()
            .get(..NAME_BYTES_MAX)
            .unwrap_or(self.name.as_bytes());
        let roles = self.roles.get(..ROLES_MAX).unwrap_or(&self.roles);
        let short = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u8(short(roles.len()));
        out.put_u8(short(name.len()));
        out.put_u64(self.capabilities);
        out.put_slice(name);
        for role in roles {
            let text = role.to_string();
            let text = text.as_bytes().get(..255).unwrap_or(text.as_bytes());
            out.put_u8(short(text.len()));
            out.put_slice(text);
        }
        out.freeze()
    }

    pub(super) fn decode(mut payload: Bytes) -> Result<Self, WireError> {
        if payload.len() < FIXED_BYTES {
            return Err(WireError::Hello("too short"));
        }
        let (version_min, version_max) = (payload.get_u8(), payload.get_u8());
        let (role_count, name_len) = (usize::from(payload.get_u8()), usize::from(payload.get_u8()));
        let capabilities = payload.get_u64();
        if version_min > version_max {
            return Err(WireError::Hello("version range is upside down"));
        }
        if name_len == 0 || name_len > NAME_BYTES_MAX {
            return Err(WireError::Hello("name is empty or too long"));
        }
        if role_count > ROLES_MAX {
            return Err(WireError::Hello("too many roles"));
        }
        let name = text(&mut payload, name_len)?;
        let mut roles = Vec::with_capacity(role_count);
        for _ in 0..role_count {
            let len = payload
                .try_get_u8()
                .map_err(|_| WireError::Hello("roles cut short"))?;
            roles.extend(text(&mut payload, usize::from(len))?.parse::<Role>().ok());
        }
        Ok(Self {
            version_min,
            version_max,
            capabilities,
            name,
            roles,
        })
    }
}

fn text(payload: &mut Bytes, len: usize) -> Result<String, WireError> {
    if payload.len() < len {
        return Err(WireError::Hello("text cut short"));
    }
    String::from_utf8(payload.split_to(len).into())
        .map_err(|_| WireError::Hello("text is not UTF-8"))
}
