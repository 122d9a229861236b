//! How a type of the model is written, without the model knowing: [`Stored`] stands in for serde's two traits
//! and every form is a serde *remote* definition, a mirror of the type whose fields the compiler compares.
//! A field of a model type says `with = "form"`; what serde knows itself needs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Something with a stored form.
pub trait Stored: Sized {
    /// Writes it.
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error>;
    /// Reads it.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

/// A type's stored form is its mirror's.
macro_rules! mirror {
    ($($model:ty => $form:ident),* $(,)?) => { $(
        impl $crate::records::form::Stored for $model {
            fn write<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> { $form::serialize(self, to) }
            fn read<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> { $form::deserialize(from) }
        }
    )* };
}
pub(super) use mirror;

/// For serde's `with`.
pub(super) fn serialize<T: Stored, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    value.write(to)
}

/// For serde's `with`.
pub(super) fn deserialize<'de, T: Stored, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    T::read(from)
}

/// For serde's `skip_serializing_if`: what is empty is not written.
pub(super) fn empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A record as compact JSON.
#[expect(
    clippy::expect_used,
    reason = "JSON in memory fails only for map keys that are no strings, and ours are"
)]
pub(super) fn to_bytes<T: Stored>(record: &T) -> Vec<u8> {
    serde_json::to_vec(&Written(record)).expect("every key of a record's maps is a string")
}

/// A record from its JSON.
pub(super) fn from_bytes<T: Stored>(payload: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Read<T>>(payload).map(|Read(record)| record)
}

struct Written<'a, T>(&'a T);

impl<T: Stored> Serialize for Written<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.write(to)
    }
}

struct Read<T>(T);

impl<'de, T: Stored> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from).map(Self)
    }
}

/// In milliseconds.
impl Stored for Duration {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(self.as_millis()).unwrap_or(u64::MAX))
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u64::deserialize(from).map(Self::from_millis)
    }
}

impl Stored for String {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self)
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::deserialize(from)
    }
}

impl<T: Stored> Stored for Option<T> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.as_ref().map(Written).serialize(to)
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Read<T>>::deserialize(from)?.map(|Read(value)| value))
    }
}

impl<T: Stored> Stored for Vec<T> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter().map(Written))
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<Read<T>>::deserialize(from)?.into_iter().map(|Read(value)| value).collect())
    }
}

impl<T: Stored + Ord> Stored for BTreeSet<T> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.iter().map(Written))
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Vec::<Read<T>>::deserialize(from)?.into_iter().map(|Read(value)| value).collect())
    }
}

impl<K: Stored + Ord, V: Stored> Stored for BTreeMap<K, V> {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter().map(|(key, value)| (Written(key), Written(value))))
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Pairs(PhantomData))
    }
}

struct Pairs<K, V>(PhantomData<(K, V)>);

impl<'de, K: Stored + Ord, V: Stored> de::Visitor<'de> for Pairs<K, V> {
    type Value = BTreeMap<K, V>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((Read(key), Read(value))) = from.next_entry::<Read<K>, Read<V>>()? {
            map.insert(key, value);
        }
        Ok(map)
    }
}

/// Reads text and makes something of it; `None` says that it is no such thing.
pub(super) fn read_text<'de, T, D: Deserializer<'de>>(
    from: D,
    what: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    from.deserialize_str(Text { what, parse })
}

struct Text<T> {
    what: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self.what))
    }
}
