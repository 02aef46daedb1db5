//! Every case of the guard, as one table of addresses and one of hosts.

use super::*;

fn guard(allow_private_endpoints: bool, networks: &str) -> SsrfGuard {
    let allow_endpoint_networks = networks.parse().unwrap();
    SsrfGuard::new(&DestinationConfig { allow_private_endpoints, allow_endpoint_networks })
}

fn check(address: &str) -> Result<(), SsrfRefusal> {
    guard(false, "").check(address.parse().unwrap())
}

/// Kind by kind, the first and the last address of the block and what is famous inside it.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("unspecified", &["0.0.0.0", "0.255.255.255", "::"]),
    ("loopback", &["127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"]),
    (
        "private",
        &[
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.0",
            "192.168.255.255",
        ],
    ),
    ("link-local", &["169.254.0.0", "169.254.255.255", "fe80::", "fe80::1", "febf:ffff::"]),
    ("site-local", &["fec0::", "feff:ffff::"]),
    ("carrier-grade NAT", &["100.64.0.0", "100.127.255.255"]),
    ("multicast", &["224.0.0.0", "239.255.255.255", "ff00::", "ff02::1", "ff0e::1"]),
    (
        "documentation",
        &[
            "192.0.2.0",
            "192.0.2.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
            "2001:db8::",
            "2001:db8:ffff::1",
            "3fff::",
            "3fff:fff::1",
        ],
    ),
    ("benchmarking", &["198.18.0.0", "198.19.255.255", "2001:2::", "2001:2:0:ffff::1"]),
    ("protocol assignments", &["192.0.0.0", "192.0.0.171", "192.0.0.255", "2001:1ff:ffff::1"]),
    ("reserved", &["240.0.0.0", "255.255.255.254", "4000::1", "e000::1"]),
    ("broadcast", &["255.255.255.255"]),
    (
        "metadata",
        &[
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:42::42",
        ],
    ),
    ("unique-local", &["fc00::", "fd12:3456::1", "fdff:ffff::1"]),
    (
        "v4-mapped",
        &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1"],
    ),
    ("v4-compatible", &["::127.0.0.1", "::7f00:1", "::8.8.8.8"]),
    ("v4-translated", &["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"]),
    ("NAT64", &["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254"]),
    ("local NAT64", &["64:ff9b:1::", "64:ff9b:1::8.8.8.8", "64:ff9b:1:ffff::1"]),
    ("6to4", &["2002:7f00:1::", "2002:808:808::1", "192.88.99.0", "192.88.99.255"]),
    ("Teredo", &["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"]),
    ("ORCHID", &["2001:10::1", "2001:20::1"]),
    ("discard-only", &["100::1"]),
    ("segment routing", &["5f00::1"]),
];

/// The neighbours of those blocks, and the best-known public ones.
const PUBLIC: &[&str] = &[
    "1.0.0.0",
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7:ffff::1",
    "2001:db9::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "3ffe::1",
    "3fff:1000::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
];

#[test]
fn public_addresses_pass() {
    for address in PUBLIC {
        assert_eq!(check(address), Ok(()), "{address}");
    }
}

#[test]
fn everything_else_is_refused() {
    for (kind, addresses) in FORBIDDEN {
        for address in *addresses {
            assert_eq!(check(address), Err(SsrfRefusal::Address), "{kind}: {address}");
        }
    }
}

/// A host as a tenant may write it, and what becomes of it.
const HOSTS: &[(&str, &str)] = &[
    // Loopback in every spelling.
    ("127.0.0.1", "address"),
    ("127.0.0.1.", "address"),
    ("127.1", "address"),
    ("127.0.1", "address"),
    ("0x7f.1", "address"),
    ("0x7f000001", "address"),
    ("0x7F.0x00.0x00.0x01", "address"),
    ("0177.0.0.1", "address"),
    ("017700000001", "address"),
    ("2130706433", "address"),
    ("0", "address"),
    ("[::1]", "address"),
    ("[0:0:0:0:0:0:0:1]", "address"),
    ("[::ffff:7f00:1]", "address"),
    ("[::ffff:127.0.0.1]", "address"),
    ("[64:ff9b::7f00:1]", "address"),
    ("[::]", "address"),
    ("localhost", "address"),
    ("LOCALHOST", "address"),
    ("localhost.", "address"),
    ("hooks.localhost", "address"),
    ("hooks.localhost.", "address"),
    // Percent-encoded, full-width, circled and ideographic: the same once parsed.
    ("%31%32%37%2e0.0.1", "address"),
    ("%6c%6fcalhost", "address"),
    ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", "address"),
    ("127\u{3002}0\u{3002}0\u{3002}1", "address"),
    ("\u{2460}\u{2461}\u{2466}.0.0.1", "address"),
    ("\u{24db}\u{24de}calhost", "address"),
    ("loc\u{ad}alhost", "address"),
    // Ports change nothing, but for the one that nothing can listen on.
    ("127.0.0.1:8443", "address"),
    ("1.1.1.1:0", "port"),
    ("example.com:0", "port"),
    ("example.com:65536", "format"),
    ("example.com:-1", "format"),
    // Whatever stands before an @ is no host.
    ("example.com@127.0.0.1", "format"),
    ("127.0.0.1@example.com", "format"),
    ("user:password@example.com", "format"),
    (":@example.com", "ok"),
    // No host, or none that could be one.
    ("256.1.1.1", "format"),
    ("1.2.3.4.5", "format"),
    ("0x100000000", "format"),
    ("[fe80::1%25eth0]", "format"),
    ("[::1", "format"),
    ("exa mple.com", "format"),
    ("exa%00mple.com", "format"),
    ("example.com%2f@127.0.0.1", "format"),
    // Where webhooks go.
    ("example.com", "ok"),
    ("example.com.", "ok"),
    ("EXAMPLE.com:8443", "ok"),
    ("b\u{fc}cher.example", "ok"),
    ("localhost.example.com", "ok"),
    ("notlocalhost", "ok"),
    ("1.1.1.1", "ok"),
    ("16843009", "ok"),
    ("[2606:4700:4700::1111]:8443", "ok"),
    ("[::ffff:1.1.1.1]", "ok"),
    ("[64:ff9b::1.1.1.1]", "ok"),
];

#[test]
fn host_is_judged_by_what_it_means_and_not_by_how_it_is_written() {
    let guard = guard(false, "");
    let judged = |host: &'static str| match guard.parse_url(&format!("https://{host}/hook")) {
        Ok(_) => (host, "ok"),
        Err(violation) => (host, violation.code),
    };
    let found: Vec<_> = HOSTS.iter().map(|(host, _)| judged(host)).collect();
    let wrong: Vec<_> = found.iter().zip(HOSTS).filter(|(found, host)| found != host).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_refused_when_it_is_set_is_refused_when_it_is_sent() {
    let guard = guard(false, "");
    for (host, _) in HOSTS.iter().filter(|(_, expected)| *expected == "address") {
        let url = format!("https://{host}/hook").parse().unwrap();
        assert_eq!(guard.check_url(&url), Err(SsrfRefusal::Address), "{host}");
    }
    assert_eq!(guard.check_url(&"http://1.1.1.1/".parse().unwrap()), Err(SsrfRefusal::Scheme));
}

#[test]
fn only_https_is_taken() {
    let code = |url: &str| guard(false, "").parse_url(url).map_err(|violation| violation.code);
    for url in ["http://1.1.1.1/", "http://10.0.0.1/", "ftp://1.1.1.1/", "file:///etc/passwd"] {
        assert_eq!(code(url), Err("scheme"), "{url}");
    }
}

#[test]
fn operator_may_allow_networks_and_they_still_need_https() {
    let guard = guard(false, "10.1.0.0/16,127.0.0.2,fd00:1::/32");
    let inside = ["10.1.0.1", "10.1.255.255", "127.0.0.2", "fd00:1::7"];
    let written = ["::ffff:10.1.0.1", "64:ff9b::10.1.0.1"];
    for address in inside.iter().chain(&written) {
        assert_eq!(guard.check(address.parse().unwrap()), Ok(()), "{address}");
    }
    for address in ["10.2.0.1", "127.0.0.1", "fd00:2::7", "::10.1.0.1", "2002:a01:1::"] {
        assert_eq!(guard.check(address.parse().unwrap()), Err(SsrfRefusal::Address), "{address}");
    }
    assert!(guard.parse_url("https://10.1.0.1/").is_ok());
    assert_eq!(guard.parse_url("http://10.1.0.1/").unwrap_err().code, "scheme");
    assert_eq!(guard.parse_url("https://localhost/").unwrap_err().code, "address");
    assert!(self::guard(false, "127.0.0.0/8").parse_url("https://localhost/").is_ok());
}

#[test]
fn nothing_is_refused_where_private_endpoints_are_allowed() {
    let guard = guard(true, "");
    for url in ["http://127.0.0.1:9000/", "https://localhost/", "http://[fd00::1]/"] {
        assert!(guard.parse_url(url).is_ok(), "{url}");
    }
    assert_eq!(guard.parse_url("http://127.0.0.1:0/").unwrap_err().code, "port");
}

#[test]
fn one_forbidden_address_refuses_the_whole_name() {
    let guard = guard(false, "");
    let public: SocketAddr = "8.8.8.8:0".parse().unwrap();
    let private: SocketAddr = "10.0.0.1:0".parse().unwrap();
    assert_eq!(guard.check_all(&[public]), Ok(()));
    assert_eq!(guard.check_all(&[public, private]), Err(SsrfRefusal::Address));
    assert_eq!(guard.check_all(&[private, public]), Err(SsrfRefusal::Address));
    assert_eq!(guard.check_all(&[]), Err(SsrfRefusal::NoAddress));
}
