//! Bytes in and out of a record, little-endian, every length checked before it is believed.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::record::RecordError;

/// Says that an optional text is absent.
const ABSENT: u32 = u32::MAX;

/// Fields of one head. No origin sends so many: clients and proxies give up at a hundred.
const FIELDS_MAX: usize = 1024;

/// Writes to the end of a record.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn array(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes after their length; `None` where they are longer than any record.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let len = u32::try_from(bytes.len())
            .ok()
            .filter(|len| *len != ABSENT)?;
        self.u32(len);
        self.array(bytes);
        Some(())
    }

    pub(super) fn maybe_bytes(&mut self, bytes: Option<&[u8]>) -> Option<()> {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => {
                self.u32(ABSENT);
                Some(())
            }
        }
    }

    /// The fields of a head; `None` where there are more than a record holds.
    pub(super) fn headers(&mut self, headers: &HeaderMap) -> Option<()> {
        if headers.len() > FIELDS_MAX {
            return None;
        }
        self.u16(u16::try_from(headers.len()).ok()?);
        for (name, value) in headers {
            self.bytes(name.as_str().as_bytes())?;
            self.bytes(value.as_bytes())?;
        }
        Some(())
    }
}

/// Takes bytes off the front of a record, or says that there are too few.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, RecordError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, RecordError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], RecordError> {
        self.maybe_bytes()?.ok_or(RecordError::Truncated)
    }

    pub(super) fn maybe_bytes(&mut self) -> Result<Option<&'a [u8]>, RecordError> {
        let len = self.u32()?;
        if len == ABSENT {
            return Ok(None);
        }
        let (head, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len))
            .ok_or(RecordError::Truncated)?;
        self.0 = rest;
        Ok(Some(head))
    }

    pub(super) fn name(&mut self) -> Result<HeaderName, RecordError> {
        HeaderName::from_bytes(self.bytes()?).map_err(|_| RecordError::Malformed("field name"))
    }

    pub(super) fn value(&mut self) -> Result<HeaderValue, RecordError> {
        HeaderValue::from_bytes(self.bytes()?).map_err(|_| RecordError::Malformed("field value"))
    }

    pub(super) fn headers(&mut self) -> Result<HeaderMap, RecordError> {
        let count = usize::from(self.u16()?);
        if count > FIELDS_MAX {
            return Err(RecordError::Malformed("number of fields"));
        }
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let (name, value) = (self.name()?, self.value()?);
            headers
                .try_append(name, value)
                .map_err(|_| RecordError::Malformed("number of fields"))?;
        }
        Ok(headers)
    }

    pub(super) const fn end(&self) -> Result<(), RecordError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(RecordError::Trailing(left)),
        }
    }
}
