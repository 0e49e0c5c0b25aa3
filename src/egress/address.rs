//! Which addresses are anybody's, and which belong to this machine, its networks or nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Says what an address is when it is not a public one.
pub fn kind_of(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) => "an address of no network",
        (127, ..) => "this machine",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "a private address",
        (169, 254, _) => "a link-local address, where clouds keep their metadata",
        // A cloud's metadata and its name servers, at addresses of their own.
        (168, 63, 129) if address == Ipv4Addr::new(168, 63, 129, 16) => "an address of the cloud's own",
        (100, 64..=127, _) => "an address behind a carrier's NAT",
        (192, 0, 0) | (192, 88, 99) => "an address for protocols",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "an address for documentation",
        (198, 18..=19, _) => "an address for benchmarks",
        (224..=239, ..) => "a multicast address",
        (240..=255, ..) => "a reserved address",
        _ => return None,
    })
}

fn kind_of_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, c, ..] = address.segments();
    Some(match (a, b, c) {
        (0, 0, 0) if address.is_loopback() => "this machine",
        (0, 0, 0) if address.is_unspecified() => "an address of no network",
        (0, 0, 0) => "an IPv4 address in the clothes of an IPv6 one",
        (0x64, 0xff9b, _) => "an IPv4 address behind a NAT64",
        (0x2002, ..) => "an IPv4 address in a 6to4 tunnel",
        (0x2001, 0..=0x1ff, _) => "an address for protocols",
        (0x2001, 0xdb8, _) | (0x3fff, 0..=0xfff, _) => "an address for documentation",
        (0xfc00..=0xfdff, ..) => "a private address",
        (0xfe80..=0xfeff, ..) => "a link-local or site-local address",
        (0xff00..=0xffff, ..) => "a multicast address",
        (0x2000..=0x3fff, ..) => return None,
        _ => "a reserved address",
    })
}

/// What stands against connecting to an address with these grants beside the public ones; nothing when it may be.
pub fn against(address: IpAddr, granted: &[IpNet]) -> Option<&'static str> {
    kind_of(address).filter(|_| !granted.iter().any(|net| net.contains(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for text in ["1.1.1.1", "93.184.215.14", "100.63.255.255", "100.128.0.0", "172.32.0.1", "169.253.1.1", "2606:4700::1111", "2a00::1"]
        {
            assert_eq!(kind_of(text.parse().unwrap()), None, "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ] {
            assert!(kind_of(text.parse().unwrap()).is_some(), "{text}");
        }
    }

    #[test]
    fn a_grant_opens_its_own_addresses_only() {
        let granted = ["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()];
        let opened = |text: &str| against(text.parse().unwrap(), &granted).is_none();
        assert!(opened("10.1.2.3") && opened("::1") && opened("1.1.1.1"));
        assert!(!opened("10.2.0.1") && !opened("127.0.0.1") && !opened("::ffff:10.1.2.3"));
    }
}
