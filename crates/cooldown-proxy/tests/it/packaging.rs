//! What packages are made of.

use std::path::Path;

const MANIFEST: &str = include_str!("../../Cargo.toml");
const UNIT: &str = include_str!("../../../../packaging/cooldown-proxy.service");
const SOCKET: &str = include_str!("../../../../packaging/cooldown-proxy.socket");

/// The assets of the Debian package: source, place and mode.
fn assets() -> Vec<[String; 3]> {
    let section = MANIFEST.split_once("\nassets = [").expect("assets").1;
    let lines = section.lines().skip(1).take_while(|line| *line != "]");
    let read = |line: &str| {
        let parts: Vec<String> = line.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        <[String; 3]>::try_from(parts).expect("three parts")
    };
    lines.map(read).collect()
}

#[test]
fn every_file_of_the_debian_package_exists_and_has_a_place_of_its_own() {
    let assets = assets();
    assert!(assets.len() > 10);
    let mut places = Vec::new();
    for [source, place, mode] in &assets {
        // What is built is there once it is built.
        let is_built = source.starts_with("target/");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        assert!(is_built || path.is_file(), "{source}");
        assert_eq!(mode, if place == "usr/bin/" { "755" } else { "644" }, "{source}");
        places.push((place, place.ends_with('/').then_some(source)));
    }
    let all = places.len();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), all, "two files have one place");
}

#[test]
fn the_unit_waits_for_the_program_to_say_that_it_is_ready() {
    let says = |text: &str, line: &str| text.lines().any(|other| other == line);
    for line in [
        "Type=notify",
        "WatchdogSec=30s",
        "RestartPreventExitStatus=2",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
    ] {
        assert!(says(UNIT, line), "{line}");
    }
    let families = UNIT.lines().find_map(|line| line.strip_prefix("RestrictAddressFamilies=")).expect("families");
    assert!(families.split(' ').any(|family| family == "AF_UNIX"), "it is told over such a socket");
    assert!(says(SOCKET, "ListenStream=127.0.0.1:8080"));
}
