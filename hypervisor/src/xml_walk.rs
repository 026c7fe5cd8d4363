//! libvirt's XML, walked element by element: what its readers share. Pure.
//!
//! What an element means is its reader's; texts are decoded, and what is no element is skipped.

use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// What reads a document. Paths are the names from the root down to the element at hand.
pub(crate) trait Visit {
    /// An element begins.
    fn begin(&mut self, path: &[&str], element: &Element<'_>);

    /// Text within the element.
    fn text(&mut self, _path: &[&str], _text: &str) {}

    /// The element ends.
    fn end(&mut self, _path: &[&str]) {}
}

/// The beginning of an element.
pub(crate) struct Element<'a>(BytesStart<'a>);

impl Element<'_> {
    /// Its attribute of this name.
    pub(crate) fn attribute(&self, name: &str) -> Option<String> {
        let attribute = self.0.try_get_attribute(name).ok()??;
        Some(attribute.normalized_value(XmlVersion::Implicit1_0).ok()?.into_owned())
    }
}

/// Walks a document; `None` when it is no XML, or has no root of this name.
pub(crate) fn walk(xml: &str, root: &str, visitor: &mut impl Visit) -> Option<()> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut is_it = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                is_it |= path == [root];
                visitor.begin(&words(&path), &Element(start));
            }
            Event::Empty(start) => {
                path.push(start.name().as_ref().to_owned());
                is_it |= path == [root];
                visitor.begin(&words(&path), &Element(start));
                visitor.end(&words(&path));
                path.pop();
            }
            Event::Text(text) => visitor.text(&words(&path), text.as_ref()),
            Event::End(_) => {
                visitor.end(&words(&path));
                path.pop();
            }
            Event::Eof => return is_it.then_some(()),
            _ => {}
        }
    }
}

fn words(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}
