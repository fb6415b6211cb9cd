//! The maps for routes.

use std::collections::BTreeMap;

use super::{
    Error,
    options::{Found, Layers},
};
use crate::{
    model::{MapKind, MapName},
    reconcile::routes::Maps,
};

/// The maps that are named, and the usual ones for the others.
pub(super) fn maps(layers: &Layers<'_>) -> Result<Maps, Error> {
    let mut maps: BTreeMap<MapKind, MapName> = BTreeMap::new();
    for kind in MapKind::ALL {
        let map = match found(layers, kind) {
            Some(found) => found.parse(|text| map(kind, text, &maps))?,
            None => Maps::usual(kind),
        };
        maps.extend(map.map(|map| (kind, map)));
    }
    Ok(Maps::new(maps))
}

fn found<'a>(layers: &Layers<'a>, kind: MapKind) -> Option<Found<'a>> {
    let field = kind.flag().replace('-', "_");
    layers.find(&field, |options| match kind {
        MapKind::Host => options.host_map.as_ref(),
        MapKind::Suffix => options.suffix_map.as_ref(),
        MapKind::Prefix => options.prefix_map.as_ref(),
        MapKind::Regex => options.regex_map.as_ref(),
        MapKind::Path => options.path_map.as_ref(),
        MapKind::Sni => options.sni_map.as_ref(),
        MapKind::Port => options.port_map.as_ref(),
    })
}

fn map(
    kind: MapKind,
    text: &str,
    others: &BTreeMap<MapKind, MapName>,
) -> Result<Option<MapName>, String> {
    if text == "off" {
        return Ok(None);
    }
    let map = MapName::new(text).map_err(|why| {
        format!("{text:?} is not the name of a map ({why}); write its path as haproxy.cfg has it, virt@name, or off")
    })?;
    match others.iter().find(|(_, other)| **other == map) {
        Some((other, _)) => Err(format!(
            "{text:?} is the map of --{} already; {kind} routes need one of their own, or off",
            other.flag()
        )),
        None => Ok(Some(map)),
    }
}
