//! Owns the proof of what `mape-ctl calc` promises: its JSON object, its exit codes and what it says when it cannot.

use std::process::{Command, Output};

use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../tests/vectors/vectors.csv");

fn calc(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mape-ctl"))
        .arg("calc")
        .args(args)
        .output()
        .expect("mape-ctl runs")
}

/// What it printed, having succeeded.
fn said(args: &[&str]) -> String {
    let output = calc(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn object(args: &[&str]) -> Value {
    serde_json::from_str(&said(args)).expect("a JSON object")
}

/// The exit code and what stands on stderr, with nothing on stdout.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = calc(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn the_object_has_these_keys_in_this_order() {
    let text = said(&[
        "--json",
        "--prefix",
        "2001:db8:12:3400::/56",
        "--rule",
        "2001:db8::/40,192.0.2.0/24,16,6",
        "--br",
        "2001:db8:ffff::1",
    ]);
    let (head, ranges) = text.split_once("\"port_ranges\":").expect("port_ranges");
    assert_eq!(
        head,
        "{\"service\":null,\"rule\":{\"ipv6\":\"2001:db8::/40\",\"ipv4\":\"192.0.2.0/24\",\"ea_len\":16,\"psid_offset\":6,\
         \"psid_len\":8,\"format\":\"rfc7597\",\"fmr\":false},\"ipv4\":\"192.0.2.18\",\"ipv4_prefix_len\":32,\"psid\":52,\
         \"psid_len\":8,\"psid_offset\":6,\"ce_address\":\"2001:db8:12:3400:0:c000:212:34\",\"br\":\"2001:db8:ffff::1\",\
         \"ports\":252,"
    );
    assert!(
        ranges.starts_with("[[1232,1235],[2256,2259],") && ranges.ends_with(",[64720,64723]]}\n"),
        "{ranges}"
    );
}

#[test]
fn every_vector_comes_out_of_the_program() {
    for line in VECTORS.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let &[
            _,
            service,
            format,
            ipv6,
            ipv4,
            ea,
            offset,
            given_len,
            given,
            prefix,
            address,
            psid,
            psid_len,
            ce,
            first,
            last,
            ports,
            _,
        ] = fields.as_slice()
        else {
            panic!("{line}");
        };
        let rule = format!("{ipv6},{ipv4},{ea},{offset}");
        let mut args = vec!["--json", "--prefix", prefix, "--rule", &rule, "--format", format];
        if !given.is_empty() {
            args.extend(["--psid", given, "--psid-len", given_len]);
        }
        let by_rule = object(&args);
        let check = |answer: &Value| {
            let range = |at: Option<&Value>| at.map(|pair| format!("{}-{}", pair[0], pair[1]));
            let ranges = answer["port_ranges"].as_array().expect("ranges");
            assert_eq!(answer["ipv4"], address, "{line}");
            assert_eq!(answer["ce_address"], ce, "{line}");
            assert_eq!(answer["psid"].to_string(), psid, "{line}");
            assert_eq!(answer["psid_len"].to_string(), psid_len, "{line}");
            assert_eq!(answer["psid_offset"].to_string(), offset, "{line}");
            assert_eq!(answer["ports"].to_string(), ports, "{line}");
            assert_eq!(range(ranges.first()).as_deref(), Some(first), "{line}");
            assert_eq!(range(ranges.last()).as_deref(), Some(last), "{line}");
        };
        check(&by_rule);
        assert_eq!(by_rule["service"], Value::Null, "{line}");
        if !service.is_empty() {
            check(&object(&["--json", "--prefix", prefix]));
            check(&object(&["--json", "--prefix", prefix, "--service", service]));
        }
    }
}

#[test]
fn the_table_knows_service_relay_and_format() {
    let found = object(&["--json", "--prefix", "2404:7a84:0:100::/56", "--service", "BigLobe"]);
    assert_eq!(found["service"], "biglobe", "the name that --service takes");
    assert_eq!(found["br"], "2001:260:700:1::1:276");
    assert_eq!(found["rule"]["format"], "draft-03");
    let other = object(&[
        "--json",
        "--prefix",
        "2404:7a84:0:100::/56",
        "--format",
        "rfc7597",
        "--br",
        "2001:db8::1",
    ]);
    assert_eq!(other["ce_address"], "2404:7a84:0:100:0:85ce:0:1", "{other}");
    assert_eq!(other["br"], "2001:db8::1");
}

#[test]
fn the_longest_match_is_the_rule() {
    let rules = [
        "--rule",
        "2001:db8::/32,20.0.0.0/8,24,6",
        "--rule",
        "2001:db8:12::/48,192.0.2.0/24,8,6",
    ];
    let with = |prefix| object(&[["--json", "--prefix", prefix].as_slice(), &rules].concat());
    assert_eq!(with("2001:db8:12:3400::/56")["ipv4"], "192.0.2.52");
    assert_eq!(with("2001:db8:13:3400::/56")["ipv4"], "20.0.19.52");
    let twice = [
        "--prefix",
        "2001:db8::/56",
        "--rule",
        "2001:db8::/40,192.0.2.0/24,16,6",
        "--rule",
        "2001:db8::/40,192.0.3.0/24,16,6",
    ];
    let (code, error) = refused(&twice);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("two rules have the IPv6 prefix 2001:db8::/40"),
        "{error}"
    );
}

#[test]
fn an_explicit_psid_and_a_whole_prefix_work() {
    let rule = "2001:db8:12:3400::/56,192.0.2.18/32,0,6";
    for psid in ["52", "0x34"] {
        let args = [
            "--json",
            "--prefix",
            "2001:db8:12:3400::/56",
            "--rule",
            rule,
            "--psid",
            psid,
            "--psid-len",
            "8",
        ];
        assert_eq!(object(&args)["ce_address"], "2001:db8:12:3400:0:c000:212:34");
    }
    let whole = object(&[
        "--json",
        "--prefix",
        "2001:db8:a000::/36",
        "--rule",
        "2001:db8::/32,20.0.0.0/8,4,6",
    ]);
    assert_eq!(
        (&whole["ipv4"], &whole["ipv4_prefix_len"]),
        (&json!("20.160.0.0"), &json!(12))
    );
    assert_eq!(whole["port_ranges"], json!([[0, 65535]]));
    let (code, error) = refused(&["--prefix", "2001:db8:12:3400::/56", "--rule", rule, "--psid", "52"]);
    assert_eq!(code, Some(2), "{error}");
    let (code, error) = refused(&[
        "--prefix",
        "2001:db8:12:3400::/56",
        "--rule",
        "2001:db8::/40,192.0.2.0/24,16,6",
        "--psid",
        "5",
        "--psid-len",
        "8",
    ]);
    assert_eq!(code, Some(1));
    assert!(error.contains("contradicts"), "{error}");
}

#[test]
fn people_get_aligned_text_and_the_note_of_a_later_subnet() {
    let text = said(&["--prefix", "240b:10:1234:ab40::/60"]);
    for line in [
        "Service       JPNE v6plus (rule confirmed, from jpne, fc2, short)",
        "IPv4 address  106.72.18.52, shared with other lines",
        "PSID          171 (0xab) of 8 bits",
        "CE address    240b:10:1234:ab00:6a:4812:3400:ab00",
        "Border relay  2404:9200:225:100::64",
        "Ports         240 in 15 ranges",
        "Note          the CE address is in 240b:10:1234:ab00::/64, outside of",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let output = calc(&["--json", "--prefix", "240b:10:1234:ab40::/60"]);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("mape-ctl: note: the CE address is in"));
}

#[test]
fn a_prefix_of_no_rule_exits_1_and_says_where_it_looked_and_what_to_try() {
    for (prefix, more) in [
        (
            "2001:db8::/56",
            "check that this is the prefix the provider gave the line",
        ),
        (
            "2404:8e00:1234:5600::/56",
            "this looks like transix, which gives IPv4 by DS-Lite",
        ),
        ("2405:6580:1234:5600::/56", "dslite.v6connect.net"),
        ("2001:f60:1234:5600::/56", "Xpass"),
        ("2408:210:1234:5600::/56", "closed network of FLET'S (East)"),
        ("2001:a000:1234:5600::/56", "closed network of FLET'S (West)"),
        ("2400:4052:ff00::/56", "OCN Virtual Connect has lines there"),
        ("240d:f:4000::/56", "try --unconfirmed"),
    ] {
        let (code, error) = refused(&["--prefix", prefix]);
        assert_eq!(code, Some(1), "{prefix}");
        for part in [
            "v6plus (240b:10::/30, 240b:250::/30)",
            "biglobe (",
            "ocn (",
            "nuro (",
            more,
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert_eq!(
        object(&["--json", "--unconfirmed", "--prefix", "240d:f:4000::/56"])["ipv4"],
        "219.104.192.0"
    );
    let (code, error) = refused(&["--prefix", "240b:10::/56", "--service", "ocn"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("no rule of ocn (") && !error.contains("biglobe"),
        "{error}"
    );
    assert!(error.contains("--service v6plus"), "{error}");
}

#[test]
fn mistakes_are_answered_with_what_would_be_right() {
    let rule = "2001:db8::/40,192.0.2.0/24,16,6";
    for (code, args, more) in [
        (2, vec!["--prefix", "240b:10:1234:ab40::/56"], "240b:10:1234:ab00::/56"),
        (2, vec!["--prefix", "240b:10:1234:ab00::"], "/"),
        (2, vec![], "--prefix"),
        (
            2,
            vec!["--prefix", "2001:db8::/56", "--rule", "2001:db8::/40,192.0.2.1/24,16,6"],
            "192.0.2.0/24",
        ),
        (
            2,
            vec!["--prefix", "2001:db8::/56", "--rule", "2001:db8::/40,192.0.2.0/24,16"],
            "4 parts",
        ),
        (
            2,
            vec!["--prefix", "2001:db8::/56", "--rule", "2001:db8::/40,192.0.2.0/24,49,6"],
            "49",
        ),
        (
            2,
            vec!["--prefix", "2001:db8::/56", "--rule", rule, "--service", "ocn"],
            "cannot be used with",
        ),
        (2, vec!["--prefix", "2001:db8::/56", "--format", "map-t"], "draft-03"),
        (1, vec!["--prefix", "2001:db8::/48", "--rule", rule], "at least /56"),
        (1, vec!["--prefix", "2001:db9::/56", "--rule", rule], "in no rule"),
        (
            1,
            vec!["--prefix", "240b:10::/56", "--service", "nifty"],
            "biglobe (BIGLOBE IPv6 option), ocn",
        ),
        (
            1,
            vec!["--prefix", "2001:db8::/56", "--rule", rule, "--psid-len", "4"],
            "contradicts",
        ),
    ] {
        let (found, error) = refused(&args);
        assert_eq!(found, Some(code), "{args:?}: {error}");
        assert!(error.contains(more), "{args:?}: {error}");
    }
}
