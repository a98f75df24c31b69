//! Owns the proof of how the program behaves as a process: exit codes, what stands on which stream, manual and completions.

use std::{
    fs,
    io::Read as _,
    process::{Command, Output, Stdio},
};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mape-ctl"));
    command.args(args);
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().expect("mape-ctl runs")
}

/// The exit code and what stands on stderr, with nothing on stdout.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = run(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

fn printed(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A folder of this test's own.
fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("mape-ctl-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

const ABSENT: &str = "no-such-instance";

#[test]
fn help_and_version_are_no_failure() {
    assert!(printed(&["--version"]).starts_with("mape-ctl "));
    let help = printed(&["--help"]);
    for subcommand in [
        "calc", "load", "check", "unload", "stat", "sessions", "ports", "forward", "explain", "trace",
    ] {
        assert!(help.contains(&format!("\n  {subcommand} ")), "{subcommand} in\n{help}");
        assert!(printed(&[subcommand, "--help"]).contains("Usage:"));
    }
    for hidden in ["object", "completions"] {
        assert!(!help.contains(&format!("\n  {hidden} ")), "{hidden} in\n{help}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let rows: [&[&str]; 28] = [
        &["explain"],
        &["explain", "udp", "192.168.1.2:1"],
        &["explain", "udp", "192.168.1.2:1", "198.51.100.7"],
        &["explain", "sctp", "192.168.1.2:1", "198.51.100.7:1"],
        &["explain", "--frame", "1", "--hex", "45"],
        &["explain", "--pcap", "a", "--hex", "45"],
        &["explain", "tcp", "192.168.1.2:1", "198.51.100.7:1", "--flags", "urg"],
        &["trace", "--outcome", "frobnicated"],
        &["trace", "--rate", "0"],
        &["trace", "--refused", "--outcome", "filtered"],
        &[],
        &["frobnicate"],
        &["stat", "--frobnicate"],
        &["stat", "--hosts", "many"],
        &["sessions", "--by-host", "--count"],
        &["--instance", "a/b", "stat"],
        &["sessions", "--inside", "192.168.1.300"],
        &["sessions", "--flush"],
        &["sessions", "--flush", "--state", "opening"],
        &["stat", "--watch", "--no-rates"],
        &["forward"],
        &["forward", "add", "icmp", "1232", "192.168.10.5"],
        &["forward", "add", "tcp", "1235-1232", "192.168.10.5"],
        &["forward", "add", "tcp", "1232", "192.168.10.5:0"],
        &["ports", "--protocol", "sctp"],
        &["object"],
        &["object", "--output", "/dev/null", "--json"],
        &["load", "--lan", "lan0", "--wan", "wan0", "--prefix", "2001:db8::1/56"],
    ];
    for args in rows {
        assert_eq!(refused(args).0, Some(2), "{args:?}");
    }
}

#[test]
fn what_is_not_loaded_cannot_be_looked_at() {
    let explain = ["explain", "icmp", "192.168.1.2", "198.51.100.7"];
    for words in [
        &["stat"][..],
        &["sessions"],
        &["ports"],
        &["forward", "list"],
        &["trace"],
        &explain,
    ] {
        let (code, said) = refused(&[&["--instance", ABSENT], words].concat());
        assert_eq!(code, Some(1));
        if rustix::process::geteuid().is_root() {
            let message = format!("mape-ctl: error: nothing is loaded as instance {ABSENT}; run mape-ctl load");
            assert!(said.starts_with(&message), "{said}");
        } else {
            assert!(said.contains("needs root"), "{said}");
        }
    }
}

#[test]
fn a_mistake_in_the_file_is_named_by_file_and_line_and_is_exit_code_1() {
    let folder = folder("config");
    let file = folder.join("ce.toml");
    fs::write(&file, "lan = [\"lan0\"]\nwann = \"wan0\"\n").expect("a configuration file");
    let path = file.to_string_lossy();
    let (code, said) = refused(&["load", "--config", &path]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with(&format!(
            "mape-ctl: error: {path}:2: there is no key `wann`, probably meant: `wan`"
        )),
        "{said}"
    );
    let (code, said) = refused(&["load", "--config", "/nowhere/ce.toml"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        "mape-ctl: error: cannot read the configuration file /nowhere/ce.toml\n\
         mape-ctl: because: No such file or directory (os error 2)\n"
    );
    fs::remove_dir_all(folder).expect("the folder is there");
}

#[test]
fn a_mistake_in_a_flag_names_the_flag() {
    let line = [
        "load",
        "--lan=a",
        "--wan=b",
        "--prefix=2001:db8:12:3400::/56",
        "--br=2001:db8:ffff::1",
    ];
    let with = |more: &[&'static str]| refused(&[&line, more].concat());
    let (code, said) = with(&["--rule=2001:db8::/40,192.0.2.0/24,16,6", "--mtu=9000000"]);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(2),
            "mape-ctl: error: --mtu: mtu is 9000000, and must be 1280 to 65495\n"
        )
    );
    let (code, said) = with(&["--rule=2001:db8::/40"]);
    assert_eq!(code, Some(2));
    assert!(
        said.starts_with("mape-ctl: error: --rule: \"2001:db8::/40\" is no rule; write IPv6 prefix, "),
        "{said}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("mape-ctl runs");
    let mut out = child.stdout.take().expect("a pipe");
    let mut first = [0];
    out.read_exact(&mut first).expect("one byte");
    drop(out);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn the_manual_has_a_page_for_every_subcommand() {
    let folder = folder("man");
    printed(&["man", "--output", &folder.to_string_lossy()]);
    for page in [
        "mape-ctl",
        "mape-ctl-calc",
        "mape-ctl-load",
        "mape-ctl-unload",
        "mape-ctl-stat",
        "mape-ctl-sessions",
        "mape-ctl-ports",
        "mape-ctl-forward",
        "mape-ctl-forward-add",
    ] {
        let text = fs::read_to_string(folder.join(format!("{page}.1"))).expect(page);
        assert!(text.contains(".SH NAME"), "{page}");
    }
    fs::remove_dir_all(folder).expect("the folder is there");
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(printed(&["completions", shell]).contains("sessions"), "{shell}");
    }
}

#[test]
fn the_object_is_written_to_a_file_or_its_absence_explained() {
    let folder = folder("object");
    let file = folder.join("mape.o");
    let output = run(&["object", "--output", &file.to_string_lossy()]);
    if output.status.success() {
        assert_eq!(fs::read(&file).expect("the object")[..4], *b"\x7fELF");
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("MAPE_SKIP_EBPF=1"), "{said}");
    }
    fs::remove_dir_all(folder).expect("the folder is there");
}

#[test]
fn the_kernel_is_asked_about_every_program_of_the_object() {
    let folder = folder("verify");
    let file = folder.join("mape.o");
    let is_written = run(&["object", "--output", &file.to_string_lossy()]).status.success();
    let object = is_written.then(|| fs::read(&file).expect("the object"));
    fs::remove_dir_all(folder).expect("the folder is there");
    let Some(object) = object else {
        println!("SKIPPED: this mape-ctl carries no BPF object");
        return;
    };
    if !rustix::process::geteuid().is_root() {
        let (code, said) = refused(&["object", "--verify"]);
        assert_eq!(code, Some(1));
        assert!(said.contains("object --verify needs root"), "{said}");
        println!("SKIPPED: loading BPF programs needs root");
        return;
    }
    let object = aya_obj::Object::parse(&object).expect("an object that aya reads");
    let mut programs: Vec<&str> = object.programs.keys().map(String::as_str).collect();
    programs.sort_unstable();

    let report: serde_json::Value = serde_json::from_str(&printed(&["object", "--verify", "--json"])).expect("JSON");
    assert_eq!(
        report["kernel"],
        rustix::system::uname().release().to_string_lossy().as_ref()
    );
    let rows = report["programs"].as_array().expect("a list of programs");
    let reported: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(reported, programs);
    for row in rows {
        assert!(row["refused"].is_null(), "{row}");
        assert!(row["verified_instructions"].as_u64() > Some(0), "{row}");
        assert!(row["translated_instructions"].as_u64() > Some(0), "{row}");
    }

    let text = printed(&["object", "--verify"]);
    let first: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(first, programs);
}

/// A configuration with a customer edge of 240 ports.
const LINE: &str = r#"
role = "ce"
lan = ["lan0"]
wan = "wan0"

[map]
prefix = "2001:db8:12:3400::/56"
br = "2001:db8:ffff::1"

[[map.rule]]
ipv6 = "2001:db8::/40"
ipv4 = "192.0.2.0/24"
ea-len = 16
psid-offset = 4
"#;

#[test]
fn a_gateway_that_is_not_loaded_is_explained_by_its_configuration() {
    let folder = folder("explain");
    let file = folder.join("mape.toml");
    fs::write(&file, LINE).expect("a file");
    let file = file.to_string_lossy().into_owned();
    let explain = |words: &[&str]| printed(&[&["explain", "--config", &file][..], words].concat());
    let told = explain(&["udp", "192.168.10.2:5000", "198.51.100.7:4000"]);
    for part in [
        "1. mape_lan_xdp: ",
        "hands it on to mape_lan_open (no-session)",
        "198.51.100.7 goes to mape0, which is the tunnel",
        "by chance, one of 240 free ports",
        "Result: forwarded, leaves by wan0",
        "source 192.168.10.2:5000 becomes 192.0.2.18:",
        "outer header: 2001:db8:12:3400:0:c000:212:34 > 2001:db8:ffff::1",
        "would be made: permission for 198.51.100.7",
        "without a single session",
    ] {
        assert!(told.contains(part), "{part:?} in\n{told}");
    }
    let told = explain(&["udp", "198.51.100.7:4000", "192.0.2.18:4928", "--inbound"]);
    assert!(told.contains("Result: dropped (no-session"), "{told}");
    // An IP packet in hexadecimal: UDP to port 9, without a checksum.
    let packet = "4500001c 00004000 4011 0000 c0a80a02 c6336407 1388 0009 0008 0000";
    let told = explain(&["--hex", packet, "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["packets"][0]["outcome"], "forwarded", "{told:#}");
    let (code, said) = refused(&["explain", "--config", &file, "--hex", "4"]);
    assert_eq!((code, said.contains("hexadecimal")), (Some(1), true), "{said}");
    fs::remove_dir_all(folder).expect("the folder goes");
}
