//! The columns and metadata of a manifest, and their limits.

use crate::changes::attributes::AttributeBuilders;
use crate::column::{self, list_of};
use arrow_schema::{DataType, Field, Fields, Schema};
use snapsync_model::SnapshotInfo;
use std::collections::HashMap;
use uuid::Uuid;

/// What the manifest is about; kept in its schema's metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestHeader {
    /// The snapshot ids; empty for a plain directory or a missing base.
    pub base: String,
    pub target: String,
    /// Of the target, if that is a snapshot of a volume. Manifests of older builds have neither.
    pub name: String,
    pub sequence: Option<u64>,
    pub volume: String,
    pub provider: String,
    pub filesystem: String,
    /// RFC 3339.
    pub created: String,
}

impl ManifestHeader {
    /// That of the changes between two snapshots.
    pub fn of(base: Option<Uuid>, target: &SnapshotInfo) -> ManifestHeader {
        ManifestHeader {
            base: base.map(|base| base.to_string()).unwrap_or_default(),
            target: target.id.to_string(),
            name: target.name.clone(),
            sequence: Some(target.sequence),
            created: target.created.clone(),
            ..ManifestHeader::default()
        }
    }
}

pub(crate) const FORMAT: &str = "2";
/// The version of older builds, which lacks the last columns.
pub(crate) const OLDER: &str = "1";
pub(super) const NEWER: usize = 2;
const FLAGS: [&str; 7] = ["created", "deleted", "renamed", "data", "attributes", "xattrs", "links"];
const TOTALS: [&str; 6] =
    ["rows", "created_count", "changed_count", "renamed_count", "deleted_count", "data_bytes"];

/// Totals are known only at the end, but the schema stands at the start. Each total is first written as this
/// many recognisable digits, which are replaced later.
pub(super) const DIGITS: usize = 20;

pub(super) fn placeholder(at: usize) -> String {
    format!("\u{1}{at}{}", "\u{2}".repeat(DIGITS - 2))
}

pub(super) fn flag_fields() -> Fields {
    FLAGS.iter().map(|name| Field::new(*name, DataType::Boolean, false)).collect()
}

pub(super) fn extent_fields() -> Fields {
    vec![
        Field::new("offset", DataType::UInt64, false),
        Field::new("length", DataType::UInt64, false),
        Field::new("op", DataType::Utf8, false),
        Field::new("source", DataType::Utf8, true),
        Field::new("source_inode", DataType::UInt64, true),
        Field::new("source_offset", DataType::UInt64, true),
        Field::new("checksum", DataType::FixedSizeBinary(32), true),
    ]
    .into()
}

pub(super) fn schema(header: &ManifestHeader) -> Schema {
    Schema::new(columns_of_changes()).with_metadata(metadata(header))
}

pub(crate) fn columns_of_changes() -> Fields {
    let new = |name, kind| Field::new(name, kind, true);
    let always = |name, kind| Field::new(name, kind, false);
    let mut fields = vec![
        always("inode", DataType::UInt64),
        always("generation", DataType::UInt64),
        always("kind", DataType::Utf8),
        new("path", DataType::Utf8),
        new("old_path", DataType::Utf8),
        new("path_raw", DataType::Binary),
        new("old_path_raw", DataType::Binary),
        always("change", DataType::Struct(flag_fields())),
        always("links_added", list_of(column::link_fields())),
        always("links_removed", list_of(column::link_fields())),
        always("nlink", DataType::UInt32),
        always("nlink_old", DataType::UInt32),
    ];
    for (name, kind) in AttributeBuilders::columns() {
        fields.push(new(name, kind.clone()));
        fields.push(Field::new(format!("{name}_old"), kind, true));
    }
    fields.extend([
        new("symlink_target", DataType::Binary),
        new("xattr", list_of(column::xattr_fields())),
        always("extents", list_of(extent_fields())),
        always("data_bytes", DataType::UInt64),
        new("rare", DataType::Struct(column::rare_fields())),
        new("rare_old", DataType::Struct(column::rare_fields())),
    ]);
    fields.into()
}

pub(crate) fn columns_of_older_changes() -> Fields {
    let fields = columns_of_changes();
    fields[..fields.len() - NEWER].into()
}

fn metadata(header: &ManifestHeader) -> HashMap<String, String> {
    let mut metadata = HashMap::from([
        ("snapsync.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("snapsync.format".to_owned(), FORMAT.to_owned()),
        ("snapsync.base".to_owned(), header.base.clone()),
        ("snapsync.target".to_owned(), header.target.clone()),
        ("snapsync.volume".to_owned(), header.volume.clone()),
        ("snapsync.provider".to_owned(), header.provider.clone()),
        ("snapsync.filesystem".to_owned(), header.filesystem.clone()),
        ("snapsync.created".to_owned(), header.created.clone()),
    ]);
    if let Some(sequence) = header.sequence {
        metadata.insert("snapsync.name".to_owned(), header.name.clone());
        metadata.insert("snapsync.sequence".to_owned(), sequence.to_string());
    }
    metadata
        .extend(TOTALS.iter().enumerate().map(|(at, name)| (format!("snapsync.{name}"), placeholder(at))));
    metadata
}

/// The most extents, names and extended attributes of one row. The kernel lists at most 64 KiB of attribute
/// names.
pub(crate) const MOST_EXTENTS: usize = 4 << 20;
pub(crate) const MOST_LINKS: usize = 1 << 20;
pub(crate) const MOST_XATTRS: usize = 1 << 16;
