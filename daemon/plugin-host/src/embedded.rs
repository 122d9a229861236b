//! The components that are part of the binary: one for each folder of `plugins/` with a `plugin.toml`, built
//! by this crate's build script. They are loaded like any other component and get no power by being here.

include!(concat!(env!("OUT_DIR"), "/components.rs"));

/// The component of this name, if there is one.
#[must_use]
pub fn component(name: &str) -> Option<&'static [u8]> {
    COMPONENTS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// The names of all, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    COMPONENTS.iter().map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_component_is_one_and_says_its_name() {
        assert!(names().any(|name| name == "local"));
        for name in names() {
            let found = crate::manifest::inspect(component(name).unwrap()).unwrap();
            let manifest = found.manifest.as_ref().unwrap();
            assert_eq!(manifest.name, name);
            assert_eq!(found.forgotten(), Vec::<&str>::new(), "{name} promises what it does not export");
            for offer in &found.offers {
                assert!(manifest.offers.contains(offer), "{name} exports {offer} and does not say so");
            }
        }
    }

    #[test]
    fn there_is_no_component_of_another_name() {
        assert_eq!(component("sdk"), None);
        assert_eq!(component(""), None);
    }
}
