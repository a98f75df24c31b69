//! What the gateway itself says to a LAN host whose packet it refuses (RFC 792, RFC 1812 §4.3.2, RFC 6888 REQ-11).
//!
//! How often it does so is limited, so that a refusal without an answer is right as well.

use super::Class;
use crate::table::world::{GATEWAY, LAN_MAC};

/// The answers that are right for a refused frame from the LAN: whole frames, of which one must be the one seen.
///
/// # Errors
/// Where such a frame is not answered.
pub fn to(frame: &[u8], class: Option<Class>, tunnel_mtu: usize) -> Result<Vec<Vec<u8>>, String> {
    let kept = frame.get(14..42).ok_or("too short to be answered")?;
    match class {
        Some(Class::Ports | Class::Slots | Class::Quota) => Ok(vec![error(frame, kept, 1, 0)]),
        // Larger than the tunnel takes.
        None if kept[6] & 0x40 != 0 => {
            let mtu = u16::try_from(tunnel_mtu).map_err(|e| e.to_string())?;
            Ok(vec![error(frame, kept, 4, mtu)])
        }
        Some(Class::Hairpin) if kept[9] == 1 && kept[20] == 8 => Ok(echo(frame)),
        other => Err(format!("an answer to what was refused as {other:?}")),
    }
}

/// Destination unreachable, from the gateway's address on the LAN.
fn error(frame: &[u8], kept: &[u8], code: u8, mtu: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0xc0, 0, 56, 0, 0, 0x40, 0, 64, 1, 0, 0];
    packet.extend(GATEWAY.octets());
    packet.extend(&kept[12..16]);
    let sum = mape_common::checksum::of([&packet[..]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = vec![3, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(kept);
    let sum = mape_common::checksum::of([&message[..]]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [&frame[6..12], &LAN_MAC.0, &[0x08, 0x00], &packet, &message].concat()
}

/// The echo, its checksum one way or the other to say zero.
fn echo(frame: &[u8]) -> Vec<Vec<u8>> {
    let mut turned = [&frame[6..12], &LAN_MAC.0, &frame[12..]].concat();
    turned[26..30].copy_from_slice(&frame[30..34]);
    turned[30..34].copy_from_slice(&frame[26..30]);
    turned[34] = 0;
    // One word is less by 0x0800, so the checksum is more by that.
    let old = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
    let sum = u16::try_from(old % 0xffff).unwrap_or(0);
    let others = if sum == 0 { vec![0, 0xffff] } else { vec![sum] };
    let with = |sum: u16| {
        let mut frame = turned.clone();
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    others.into_iter().map(with).collect()
}
