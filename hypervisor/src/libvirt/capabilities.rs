//! What libvirt's capabilities document says, as far as we ask. Pure.

use quick_xml::Reader;
use quick_xml::events::Event;

use crate::domain::Owner;

/// Whose files guests may use: the base label of libvirt's security model `dac`, written as
/// `+UID:+GID`. `None` when libvirt changes no owners.
pub(super) fn guest_owner(capabilities: &str) -> Option<Owner> {
    let mut reader = Reader::from_str(capabilities);
    let (mut element, mut is_dac) = (String::new(), false);
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => element = start.name().as_ref().to_owned(),
            Event::Text(text) if element == "model" => is_dac = text.as_ref() == "dac",
            Event::Text(text) if element == "baselabel" && is_dac => return owner_of_label(&text),
            Event::End(_) => element.clear(),
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn owner_of_label(label: &str) -> Option<Owner> {
    let (uid, gid) = label.split_once(':')?;
    let number = |text: &str| text.strip_prefix('+')?.parse().ok();
    Some(Owner { uid: number(uid)?, gid: number(gid)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MODELS: &str = "<capabilities><host><cpu><model>EPYC</model></cpu>
        <secmodel><model>apparmor</model><doi>0</doi><baselabel type='kvm'>x</baselabel></secmodel>
        <secmodel><model>dac</model><doi>0</doi>
          <baselabel type='kvm'>+64055:+994</baselabel>
          <baselabel type='qemu'>+64055:+994</baselabel></secmodel></host></capabilities>";

    #[test]
    fn the_dac_label_names_the_owner() {
        assert_eq!(guest_owner(TWO_MODELS), Some(Owner { uid: 64055, gid: 994 }));
    }

    #[test]
    fn without_a_readable_dac_label_there_is_none() {
        assert_eq!(guest_owner("<capabilities/>"), None);
        assert_eq!(guest_owner(&TWO_MODELS.replace("<model>dac", "<model>none")), None);
        assert_eq!(guest_owner(&TWO_MODELS.replace("+64055:+994", "qemu:kvm")), None);
    }
}
