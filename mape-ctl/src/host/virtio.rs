//! Owns what a virtual machine's host has granted a virtio NIC, as far as it decides whether XDP can work there.

use std::fs;

/// Frames may come with sums that a NIC was to finish.
const GUEST_CSUM: usize = 1;
/// The guest may switch such things off.
const CTRL_GUEST_OFFLOADS: usize = 2;

/// What was negotiated for a NIC; none where it is no virtio NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    bits: Vec<bool>,
}

impl Features {
    /// Looks at an interface of this machine.
    pub fn of(interface: &str) -> Option<Self> {
        let device = format!("/sys/class/net/{interface}/device");
        let driver = fs::read_link(format!("{device}/driver")).ok()?;
        if driver.file_name()? != "virtio_net" {
            return None;
        }
        Self::parse(&fs::read_to_string(format!("{device}/features")).ok()?)
    }

    /// A digit for each feature, in their order.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bits: Option<Vec<bool>> = text.trim().bytes().map(digit_of).collect();
        bits.filter(|bits| !bits.is_empty()).map(|bits| Self { bits })
    }

    fn has(&self, bit: usize) -> bool {
        self.bits.get(bit).copied().unwrap_or(false)
    }

    /// Whether frames come with unfinished sums, which the driver stops for XDP of its own and the generic layer does not.
    pub fn has_unfinished_sums(&self) -> bool {
        self.has(GUEST_CSUM)
    }

    /// Whether the driver refuses XDP because it may not switch offloads off.
    pub fn refuses_xdp(&self) -> bool {
        !self.has(CTRL_GUEST_OFFLOADS)
    }
}

const fn digit_of(digit: u8) -> Option<bool> {
    match digit {
        b'0' => Some(false),
        b'1' => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_in_their_order() {
        let usual = Features::parse("1110010111111111111101010000110011\n").unwrap();
        assert!(usual.has_unfinished_sums() && !usual.refuses_xdp());
        let fixed = Features::parse("1100010111111111111101010000110011\n").unwrap();
        assert!(fixed.has_unfinished_sums() && fixed.refuses_xdp());
        let plain = Features::parse("1000").unwrap();
        assert!(!plain.has_unfinished_sums());
        for bad in ["", "\n", "10x1"] {
            assert_eq!(Features::parse(bad), None, "{bad:?}");
        }
    }
}
