//! Owns captures on the transit links: tcpdump writes them, tshark dissects them, and every frame is held to the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    lab::Lab,
    plan::{
        self,
        edges::{self, Edge},
    },
    process::{Background, pause, run, wait_for},
};

/// More frames than this are not written: dissecting takes about 20 µs for each.
const MOST_FRAMES: usize = 200_000;
/// More than any frame has here; the kernel's buffer is divided into slots of this size.
const SNAP: &str = "2048";
const DISSECT: Duration = Duration::from_mins(2);
/// A capture with faults is kept under this name.
const KEPT: &str = "mape-capture-with-faults.pcap";
/// When a capture's file has not grown for so long, it is whole; so often it is looked at at most.
const REST: Duration = Duration::from_millis(500);
const LOOKS: u32 = 20;
/// Only so many faults are described; the rest are counted.
const DESCRIBED: usize = 10;

/// What tshark is asked about each frame; a field that is there twice (outer, inner) gives two values.
const FIELDS: [&str; 19] = [
    "frame.number",
    "_ws.col.Protocol",
    "_ws.malformed",
    "_ws.expert.severity",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.nxt",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "icmp.ident",
    "ipv6.opt.tel",
    "ipv6.flow",
    "tcp.checksum",
    "tcp.checksum_calculated",
];
/// And about its checksums.
const SUMS: [&str; 5] = [
    "ip.checksum.status",
    "tcp.checksum.status",
    "udp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
];
/// tshark's words for a checksum: bad. (1 is good, 2 not verified, 3 not there.)
const BAD: &str = "0";
/// tshark's number for what it calls an error (a retransmission, say, is only a note).
const ERROR: &str = "8388608";
/// The IPv6 next header of IPv4.
const IPV4_INSIDE: &str = "4";

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    program: Background,
    file: PathBuf,
}

/// What a capture showed.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Frames in it.
    pub frames: usize,
    /// Of these, IPv4 in IPv6 from a customer edge.
    pub from_ce: usize,
    /// Of these, IPv4 in IPv6 to a customer edge.
    pub to_ce: usize,
    /// Of these, IPv4 in IPv6 by source and destination of the outer header.
    pub tunnels: BTreeMap<(Ipv6Addr, Ipv6Addr), usize>,
    /// Different flow labels among those from a customer edge.
    pub flow_labels: usize,
    /// What was wrong, with how many frames.
    pub faults: BTreeMap<String, usize>,
    /// The first of them, with their frame's number.
    pub described: Vec<String>,
}

impl Report {
    /// Whether every frame was as it must be.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Capture {
    /// Starts to capture what passes a device of a node.
    ///
    /// # Errors
    /// When tcpdump does not start.
    pub fn start(lab: &Lab, node: &str, device: &str) -> Result<Self> {
        let file = lab.folder().join(format!("{node}-{device}.pcap"));
        let (path, most) = (file.to_string_lossy().into_owned(), MOST_FRAMES.to_string());
        let words = [
            "tcpdump",
            "-i",
            device,
            "-n",
            "-U",
            // Else frames are handed over a block at a time, a second late, and what is in a block at the end is lost.
            "--immediate-mode",
            "-s",
            SNAP,
            "-B",
            "65536",
            "-Z",
            "root",
            "-c",
            &most,
            "-w",
            &path,
        ];
        // Of an earlier capture there: it would look as if this one had begun.
        let _ = fs::remove_file(&file);
        let program = lab.spawn(node, &words)?;
        // The header is written once the socket is open; what is sent before that would be missed.
        wait_for("tcpdump", Duration::from_secs(10), || {
            Ok(file.metadata().is_ok_and(|data| data.len() > 0))
        })?;
        Ok(Self { program, file })
    }

    /// Ends the capture and judges every frame by the rules of RFC 7597 and this lab's plan: one customer edge and its relay.
    ///
    /// # Errors
    /// When tcpdump has missed a frame, or tshark fails.
    pub fn judge(self) -> Result<Report> {
        self.judge_among(&[edges::FIRST])
    }

    /// Ends the capture and gives its frames as they are.
    ///
    /// # Errors
    /// When tcpdump has missed a frame, or its file is none.
    pub fn frames(self) -> Result<Vec<Vec<u8>>> {
        let file = self.file.clone();
        self.end()?;
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        packets(&bytes).with_context(|| format!("{} is no capture", file.display()))
    }

    /// Stops tcpdump, once it has written what the kernel has for it: on a busy machine it comes to that late.
    fn end(self) -> Result<()> {
        let mut size = 0;
        for _ in 0..LOOKS {
            let before = size;
            size = self.file.metadata().map_or(0, |data| data.len());
            if size == before {
                break;
            }
            pause(REST)?;
        }
        let said = self.program.stop()?.stderr;
        if !is_complete(&said).with_context(|| format!("tcpdump said: {said}"))? {
            bail!("tcpdump has missed frames: {said}");
        }
        Ok(())
    }

    /// As [`Self::judge`] where these customer edges may send to each other.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn judge_among(self, edges: &[Edge]) -> Result<Report> {
        let file = self.file.clone();
        self.end()?;
        let mut tshark = Command::new("tshark");
        // Checksums are not looked at unless asked for.
        for protocol in ["ip", "tcp", "udp"] {
            tshark.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
        }
        // Payloads are nobody's protocol: of random bytes from port 80, one segment in a thousand looks like the malformed begin of something.
        for protocol in ["tcp", "udp"] {
            tshark.args(["-d", &format!("{protocol}.port==0-65535,data")]);
        }
        tshark
            .arg("-n")
            .arg("-r")
            .arg(&file)
            .args(["-T", "fields", "-E", "separator=;", "-E", "occurrence=a"]);
        for field in fields() {
            tshark.args(["-e", field]);
        }
        let finished = run(tshark.env("HOME", "/nonexistent"), DISSECT)?.success()?;
        let mut report = Report::default();
        let mut labels = BTreeSet::new();
        for line in finished.stdout.lines() {
            let frame = Frame::parse(line).with_context(|| format!("tshark printed `{line}`"))?;
            report.frames += 1;
            let ends = frame.ends(edges);
            if ends.from.is_some() {
                report.from_ce += 1;
                labels.insert(frame.first("ipv6.flow").to_owned());
            }
            report.to_ce += usize::from(ends.to.is_some());
            if let Some(tunnel) = frame.tunnel() {
                *report.tunnels.entry(tunnel).or_default() += 1;
            }
            for fault in frame.faults(edges) {
                if report.described.len() < DESCRIBED {
                    let of = |field| frame.all(field).join(" ");
                    report.described.push(format!(
                        "frame {}, {} to {}, ports {}{} to {}{}: {fault}",
                        frame.first("frame.number"),
                        of("ip.src"),
                        of("ip.dst"),
                        of("tcp.srcport"),
                        of("udp.srcport"),
                        of("tcp.dstport"),
                        of("udp.dstport"),
                    ));
                }
                *report.faults.entry(fault).or_default() += 1;
            }
        }
        report.flow_labels = labels.len();
        if !report.is_clean() {
            // For whoever wants to know what exactly was in it; the next one takes its place.
            let kept = env::temp_dir().join(KEPT);
            if fs::copy(&file, &kept).is_ok() {
                report.described.push(format!("the capture is {}", kept.display()));
            }
        }
        Ok(report)
    }
}

/// The frames of a capture file, in the byte order of this machine.
fn packets(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    let word = |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?)) };
    // Time stamps are in millionths or thousandths of those.
    if !matches!(word(0)?, 0xa1b2_c3d4 | 0xa1b2_3c4d) {
        return None;
    }
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let len = usize::try_from(word(at + 8)?).ok()?;
        frames.push(file.get(at + 16..at + 16 + len)?.to_vec());
        at += 16 + len;
    }
    Some(frames)
}

/// Whether tcpdump has written all that the kernel had for it, by the figures that it ends with.
fn is_complete(said: &str) -> Option<bool> {
    let figure = |what: &str| -> Option<usize> {
        let line = said.lines().find(|line| line.ends_with(what))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let (captured, received) = (figure(" captured")?, figure(" received by filter")?);
    let dropped = figure(" dropped by kernel")?;
    Some(captured >= MOST_FRAMES || (captured, dropped) == (received, 0))
}

fn fields() -> impl Iterator<Item = &'static str> {
    FIELDS.into_iter().chain(SUMS)
}

/// The customer edges at the two ends of a tunnelled frame's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends<'a> {
    from: Option<&'a Edge>,
    to: Option<&'a Edge>,
}

/// One frame's fields, each with all its values, outermost first.
struct Frame<'a> {
    values: BTreeMap<&'static str, Vec<&'a str>>,
}

impl<'a> Frame<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let columns: Vec<&str> = line.split(';').collect();
        if columns.len() != fields().count() {
            return None;
        }
        let split = |column: &'a str| column.split(',').filter(|value| !value.is_empty()).collect();
        Some(Self {
            values: fields().zip(columns.into_iter().map(split)).collect(),
        })
    }

    fn all(&self, field: &str) -> &[&'a str] {
        self.values.get(field).map_or(&[], Vec::as_slice)
    }

    fn first(&self, field: &str) -> &'a str {
        self.all(field).first().copied().unwrap_or_default()
    }

    /// Source and destination of the outer header, where it carries IPv4.
    fn tunnel(&self) -> Option<(Ipv6Addr, Ipv6Addr)> {
        if !self.all("ipv6.nxt").contains(&IPV4_INSIDE) {
            return None;
        }
        let address = |field| self.first(field).parse().ok();
        Some((address("ipv6.src")?, address("ipv6.dst")?))
    }

    fn ends<'e>(&self, edges: &'e [Edge]) -> Ends<'e> {
        let tunnel = self.tunnel();
        let find = |address: Option<Ipv6Addr>| edges.iter().find(|edge| Some(edge.ipv6) == address);
        Ends {
            from: find(tunnel.map(|(from, _)| from)),
            to: find(tunnel.map(|(_, to)| to)),
        }
    }

    /// Whether the TCP checksum is zero, written as ffff: Linux does so where it makes the sum late, as it must for UDP, and one's
    /// complement has both (RFC 1071). tshark calls it an error.
    fn has_other_zero(&self) -> bool {
        (self.first("tcp.checksum"), self.first("tcp.checksum_calculated")) == ("0xffff", "0x0000")
    }

    fn faults(&self, edges: &[Edge]) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.all("_ws.malformed").is_empty() {
            faults.push(format!("malformed ({})", self.first("_ws.col.Protocol")));
        }
        let has_other_zero = self.has_other_zero();
        for field in SUMS {
            // An ICMP error carries the beginning of a packet, whose own sums cannot be checked.
            if self.first(field) == BAD && !(has_other_zero && field == "tcp.checksum.status") {
                faults.push(format!(
                    "{} is bad",
                    field.trim_end_matches(".status").replace('.', " ")
                ));
            }
        }
        if !self.all("ipv6.opt.tel").is_empty() {
            faults.push("carries an encapsulation limit option".to_owned());
        }
        let errors = |found: &[&str]| found.iter().filter(|severity| **severity == ERROR).count();
        if faults.is_empty() && errors(self.all("_ws.expert.severity")) > usize::from(has_other_zero) {
            faults.push(format!("tshark finds an error ({})", self.first("_ws.col.Protocol")));
        }
        let ends = self.ends(edges);
        if let Some(edge) = ends.from {
            self.check_end(edge, edges, ["ipv6.dst", "ip.src", "srcport"], &mut faults);
        }
        if let Some(edge) = ends.to {
            self.check_end(edge, edges, ["ipv6.src", "ip.dst", "dstport"], &mut faults);
        }
        if ends.from.is_none() && ends.to.is_none() && !self.all("ip.src").is_empty() {
            faults.push("IPv4 outside the CE's tunnel".to_owned());
        }
        faults
    }

    /// The other tunnel end must be the border relay or another customer edge, and this one's end inside must be in its port set.
    fn check_end(&self, edge: &Edge, edges: &[Edge], [far, own, port]: [&str; 3], faults: &mut Vec<String>) {
        let is_other = |address: Ipv6Addr| {
            address == plan::BR_IPV6 || (address != edge.ipv6 && edges.iter().any(|other| other.ipv6 == address))
        };
        if !self.first(far).parse().is_ok_and(is_other) {
            faults.push(format!("{far} is {}, no other end of a tunnel", self.first(far)));
        }
        if self.first(own).parse::<Ipv4Addr>() != Ok(edge.ipv4) {
            faults.push(format!("{own} is {}, not the CE's shared address", self.first(own)));
        }
        // The first protocol is the packet's own; an ICMP error shows those of the packet inside it, too.
        let field = match self.first("ip.proto") {
            "1" => "icmp.ident".to_owned(),
            "6" => format!("tcp.{port}"),
            "17" => format!("udp.{port}"),
            other => return faults.push(format!("IP protocol {other}, which has no port")),
        };
        let value = self.first(&field);
        if !value.is_empty() && !number(value).is_some_and(|port| plan::is_port_of(edge.psid, port)) {
            faults.push(format!("{field} is {value}, outside the port set"));
        }
    }
}

fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, edges, is_complete};

    /// A UDP datagram from the CE, as tshark prints its fields, with one of them replaced.
    fn from_ce(field: &str, value: &str) -> String {
        let good = [
            ("frame.number", "1"),
            ("_ws.col.Protocol", "UDP"),
            ("ipv6.src", "2001:db8:12:3400:0:c000:212:34"),
            ("ipv6.dst", "2001:db8:ffff::1"),
            ("ipv6.nxt", "4"),
            ("ip.src", "192.0.2.18"),
            ("ip.dst", "198.51.100.1"),
            ("ip.proto", "17"),
            ("udp.srcport", "4928"),
            ("udp.dstport", "7001"),
            ("ip.checksum.status", "1"),
            ("udp.checksum.status", "1"),
        ];
        let value_of = |name: &str| {
            let usual = good
                .iter()
                .find(|(known, _)| *known == name)
                .map_or("", |(_, usual)| *usual);
            if name == field { value } else { usual }.to_owned()
        };
        super::fields().map(value_of).collect::<Vec<_>>().join(";")
    }

    fn faults(line: &str) -> Vec<String> {
        let frame = Frame::parse(line).expect("as many columns as fields");
        frame.faults(&[edges::FIRST])
    }

    #[test]
    fn a_right_frame_has_no_fault_and_a_way() {
        let line = from_ce("", "");
        let frame = Frame::parse(&line).expect("as many columns as fields");
        assert_eq!(frame.ends(&edges::ALL).from, Some(&edges::FIRST));
        assert_eq!(frame.ends(&edges::ALL).to, None);
        assert_eq!(faults(&line), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_can_be_wrong_is_found() {
        for (field, value, fault) in [
            ("_ws.malformed", "[Malformed Packet]", "malformed (UDP)"),
            ("_ws.expert.severity", "2097152,8388608", "tshark finds an error (UDP)"),
            ("ip.checksum.status", "0", "ip checksum is bad"),
            ("udp.checksum.status", "0", "udp checksum is bad"),
            ("ipv6.opt.tel", "4", "carries an encapsulation limit option"),
            (
                "ipv6.dst",
                "2001:db8:ffff::2",
                "ipv6.dst is 2001:db8:ffff::2, no other end of a tunnel",
            ),
            (
                "ip.src",
                "192.168.10.2",
                "ip.src is 192.168.10.2, not the CE's shared address",
            ),
            ("udp.srcport", "4944", "udp.srcport is 4944, outside the port set"),
            ("ip.proto", "47", "IP protocol 47, which has no port"),
            ("ipv6.nxt", "59", "IPv4 outside the CE's tunnel"),
        ] {
            assert_eq!(faults(&from_ce(field, value)), [fault], "{field}");
        }
    }

    #[test]
    fn a_zero_that_is_written_the_other_way_is_right_and_excuses_nothing_else() {
        let with = |sum: &str, severity: &str| {
            let line = from_ce("tcp.checksum.status", "0");
            let put = |line: String, field: &str, value: &str| {
                let at = super::fields().position(|known| known == field).expect("a field");
                let mut columns: Vec<&str> = line.split(';').collect();
                columns[at] = value;
                columns.join(";")
            };
            let line = put(line, "tcp.checksum", sum);
            let line = put(line, "tcp.checksum_calculated", "0x0000");
            put(line, "_ws.expert.severity", severity)
        };
        assert_eq!(faults(&with("0xffff", "8388608")), Vec::<String>::new());
        assert_eq!(faults(&with("0xfffe", "8388608")), ["tcp checksum is bad"]);
        assert_eq!(
            faults(&with("0xffff", "8388608,8388608")),
            ["tshark finds an error (UDP)"]
        );
    }

    #[test]
    fn between_customer_edges_both_ends_are_judged() {
        let second = edges::ALL[1].ipv6.to_string();
        let line = from_ce("ipv6.dst", &second).replace("198.51.100.1", "192.0.2.18");
        let among = |edges| Frame::parse(&line).expect("as many columns as fields").faults(edges);
        assert_eq!(among(&edges::ALL), ["udp.dstport is 7001, outside the port set"]);
        assert_eq!(
            among(&edges::ALL[..1]),
            [format!("ipv6.dst is {second}, no other end of a tunnel")]
        );
        let to_itself = from_ce("ipv6.dst", &edges::FIRST.ipv6.to_string());
        assert_eq!(faults(&to_itself).len(), 4, "{to_itself}");
    }

    #[test]
    fn an_error_message_is_not_judged_by_the_ports_of_the_packet_inside_it() {
        let line = from_ce("ip.proto", "1,17").replace(";4928;7001;", ";7;4928;");
        assert_eq!(faults(&line), Vec::<String>::new());
        let echo = from_ce("ip.proto", "1").replace(";4928;7001;;", ";;;0x1350;");
        assert_eq!(faults(&echo), ["icmp.ident is 0x1350, outside the port set"]);
    }

    #[test]
    fn a_capture_that_lacks_frames_is_noticed() {
        let said = |captured: usize, received: usize, dropped: usize| {
            is_complete(&format!(
                "tcpdump: listening on ce0, link-type EN10MB (Ethernet), snapshot length 2048 bytes\n\
                 {captured} packets captured\n{received} packets received by filter\n{dropped} packets dropped by kernel\n"
            ))
        };
        assert_eq!(said(0, 0, 0), Some(true));
        assert_eq!(said(7, 7, 0), Some(true));
        assert_eq!(said(0, 20, 0), Some(false), "not read yet");
        assert_eq!(said(7, 7, 1), Some(false), "no room");
        assert_eq!(said(200_000, 200_100, 0), Some(true), "as many as were wanted");
        assert_eq!(
            is_complete("1 packet captured\n1 packet received by filter\n0 packets dropped by kernel"),
            Some(true)
        );
        assert_eq!(is_complete("tcpdump: ce0: No such device exists"), None);
    }

    #[test]
    fn a_line_of_another_shape_is_refused() {
        assert!(Frame::parse("1;2").is_none());
    }
}
