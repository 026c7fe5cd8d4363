//! A guest's definition without the pins that its host has given it: what it takes along to another host, which has
//! other CPUs, and gives it others. Pure.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer, XmlVersion};

/// The same definition without its host's pins. Those of the virtual CPUs in `named` are the VM's own. `None`: it has
/// none, or is no XML.
pub(crate) fn unpinned(xml: &str, named: &[u32]) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut writer = Writer::new(Vec::new());
    let mut path: Vec<String> = Vec::new();
    let mut is_changed = false;
    // How deep the element is that is left out with all that is in it.
    let mut left_out: Option<usize> = None;
    loop {
        let event = reader.read_event().ok()?;
        let event = match event {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                if left_out.is_none() && is_hosts(&path, &start, named) {
                    left_out = Some(path.len());
                }
                Event::Start(without_cpuset(start, &path, &mut is_changed)?)
            }
            Event::Empty(start) => {
                path.push(start.name().as_ref().to_owned());
                let is_hosts = is_hosts(&path, &start, named);
                path.pop();
                if is_hosts {
                    is_changed = true;
                    continue;
                }
                Event::Empty(start)
            }
            Event::End(end) => {
                let depth = path.len();
                path.pop();
                if left_out == Some(depth) {
                    (left_out, is_changed) = (None, true);
                    continue;
                }
                Event::End(end)
            }
            Event::Eof => break,
            other => other,
        };
        if left_out.is_none() {
            writer.write_event(event).ok()?;
        }
    }
    is_changed.then(|| String::from_utf8(writer.into_inner()).ok())?
}

/// Whether the element is its host's doing.
fn is_hosts(path: &[String], start: &BytesStart<'_>, named: &[u32]) -> bool {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    match words[..] {
        ["domain", "numatune"] | ["domain", "cputune", "emulatorpin"] => true,
        ["domain", "cputune", "vcpupin"] => {
            let vcpu = start.try_get_attribute("vcpu").ok().flatten();
            let vcpu = vcpu.and_then(|vcpu| vcpu.normalized_value(XmlVersion::Implicit1_0).ok());
            let vcpu = vcpu.and_then(|vcpu| vcpu.parse().ok());
            vcpu.is_none_or(|vcpu| !named.contains(&vcpu))
        }
        _ => false,
    }
}

/// The number of virtual CPUs, without where they are.
fn without_cpuset<'a>(
    start: BytesStart<'a>,
    path: &[String],
    is_changed: &mut bool,
) -> Option<BytesStart<'a>> {
    if path != ["domain", "vcpu"] || start.try_get_attribute("cpuset").ok()?.is_none() {
        return Some(start);
    }
    *is_changed = true;
    let mut without = BytesStart::new("vcpu");
    for attribute in start.attributes() {
        let attribute = attribute.ok()?;
        if attribute.key.as_ref() != "cpuset" {
            without.push_attribute(attribute);
        }
    }
    Some(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_the_host_stay_and_all_else_goes_along() {
        let xml = "<domain type='kvm'><name>a</name>\
            <vcpu placement='static' cpuset='0' current='1'>2</vcpu>\
            <cputune><shares>9</shares><vcpupin vcpu='0' cpuset='3'/><vcpupin vcpu='1' cpuset='0'/>\
            <emulatorpin cpuset='0'/></cputune>\
            <numatune><memory mode='preferred' nodeset='1'/></numatune>\
            <cpu><topology sockets='1'/></cpu></domain>";
        let expected = "<domain type='kvm'><name>a</name>\
            <vcpu placement='static' current='1'>2</vcpu>\
            <cputune><shares>9</shares></cputune>\
            <cpu><topology sockets='1'/></cpu></domain>";
        let plain = |text: &str| text.replace('"', "'");
        assert_eq!(unpinned(xml, &[]).map(|text| plain(&text)).as_deref(), Some(expected));
        let kept = unpinned(xml, &[1]).unwrap();
        assert!(kept.contains("<vcpupin vcpu='1' cpuset='0'/>"), "{kept}");
        assert!(!kept.contains("vcpu='0'"), "{kept}");
        assert_eq!(unpinned(expected, &[]), None, "there is nothing to leave behind");
        assert_eq!(unpinned("<domain><vcpu cpuset='0'", &[]), None);
    }
}
