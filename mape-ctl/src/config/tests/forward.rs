//! Rows of static forwards: what each means, or the message that it gets.

use super::*;

fn forwards(text: &str) -> Vec<String> {
    let gateway = file(&format!("{LEAST}{text}")).unwrap().gateway;
    gateway.forwards.iter().map(ToString::to_string).collect()
}

#[test]
fn forwards_are_read_from_file_and_flags() {
    let text = "[[forward]]\nprotocol = \"tcp\"\nexternal = 1232\ninside = \"192.168.10.5:80\"\n\
        [[forward]]\nprotocol = \"both\"\nexternal = \"2256-2259\"\ninside = \"192.168.10.5\"\n";
    assert_eq!(
        forwards(text),
        [
            "tcp 1232 to 192.168.10.5:80",
            "both 2256-2259 to 192.168.10.5:2256-2259"
        ]
    );
    let flags = ["--forward", "udp,1233,192.168.10.6:53"];
    let gateway = with(&format!("{LEAST}{text}"), &flags).unwrap().gateway;
    let said: Vec<String> = gateway.forwards.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["udp 1233 to 192.168.10.6:53"],
        "flags take the place of the whole list"
    );
    assert_eq!(forwards(""), Vec::<String>::new());
}

#[test]
fn a_forward_that_cannot_be_is_refused_with_its_line() {
    let one = |protocol: &str, external: &str, inside: &str| {
        format!("[[forward]]\nprotocol = \"{protocol}\"\nexternal = {external}\ninside = \"{inside}\"\n")
    };
    let rows = [
        (
            one("sctp", "1232", "192.168.10.5"),
            "ce.toml:12: protocol is \"sctp\"; it is one of: tcp, udp, both",
        ),
        (
            one("tcp", "\"1235-1232\"", "192.168.10.5"),
            "ce.toml:13: external is \"1235-1232\"; write a port from 1 to 65535, or the first",
        ),
        (
            one("tcp", "1232", "192.168.10"),
            "ce.toml:14: inside is \"192.168.10\"; write the LAN host's IPv4 address",
        ),
        (
            one("tcp", "\"1232-1236\"", "192.168.10.5"),
            "ce.toml:11: port 1236 is not of this line; it has 1232-1235, 2256-2259,",
        ),
        (
            one("tcp", "1232", "192.0.2.18:80"),
            "ce.toml:11: 192.0.2.18 is the address that the line shares",
        ),
        (
            one("tcp", "1232", "192.168.10.5:80") + &one("both", "\"1232-1233\"", "192.168.10.6"),
            "ce.toml:15: the forwards both 1232-1233 to 192.168.10.6:1232-1233 and tcp 1232 to 192.168.10.5:80 have a port in common",
        ),
        (
            one("tcp", "1232", "192.168.10.5:80") + &one("tcp", "1233", "192.168.10.5:80"),
            "ce.toml:15: the forwards tcp 1233 to 192.168.10.5:80 and tcp 1232 to 192.168.10.5:80 lead to the same port",
        ),
        (
            "[nat]\nreserved-ports = [1232]\n".to_owned() + &one("udp", "1232", "192.168.10.5"),
            "ce.toml:13: port 1232 is kept from translation by nat.reserved-ports",
        ),
        (
            "[nat]\nreserved-ports = [1232, 22]\n".to_owned(),
            "ce.toml:12: reserved-ports has port 22, which is not of this line; it has 1232-1235,",
        ),
        (
            "[[forward]]\nprotocol = \"tcp\"\nexternal = 1232\n".to_owned(),
            "ce.toml:11: inside is missing; a forward has protocol, external and inside",
        ),
    ];
    for (text, message) in rows {
        let found = wrong(&format!("{LEAST}{text}"));
        assert!(found.starts_with(message), "{text}\n  {found}\ninstead of\n  {message}");
    }
    let flag = with(LEAST, &["--forward", "tcp:1232"]).unwrap_err();
    assert!(
        flag.starts_with("--forward: \"tcp:1232\" is no forward; write protocol, ports and LAN host"),
        "{flag}"
    );
}

#[test]
fn a_border_relay_forwards_no_ports() {
    let text = LEAST
        .replace("prefix = \"2001:db8:12:3400::/56\"", "")
        .replace("lan =", "role = \"br\"\nlan =")
        + "[[forward]]\nprotocol = \"tcp\"\nexternal = 1232\ninside = \"192.168.10.5\"\n";
    assert!(
        wrong(&text).contains("forward does not go with role br"),
        "{}",
        wrong(&text)
    );
}
