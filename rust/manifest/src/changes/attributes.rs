//! The columns of an inode's attributes.

use crate::column::{timestamp, timestamp_builder};
use arrow_array::Array;
use arrow_array::builder::{TimestampNanosecondBuilder, UInt32Builder, UInt64Builder};
use arrow_schema::DataType;
use snapsync_model::Attributes;
use std::sync::Arc;

/// One side's attributes, old or new.
pub(super) struct AttributeBuilders {
    size: UInt64Builder,
    mode: UInt32Builder,
    uid: UInt32Builder,
    gid: UInt32Builder,
    rdev: UInt64Builder,
    mtime: TimestampNanosecondBuilder,
    flags: UInt32Builder,
}

impl AttributeBuilders {
    pub(super) fn columns() -> [(&'static str, DataType); 7] {
        use DataType::{UInt32, UInt64};
        [
            ("size", UInt64),
            ("mode", UInt32),
            ("uid", UInt32),
            ("gid", UInt32),
            ("rdev", UInt64),
            ("mtime", timestamp()),
            ("flags", UInt32),
        ]
    }

    pub(super) fn new() -> Self {
        AttributeBuilders {
            size: UInt64Builder::new(),
            mode: UInt32Builder::new(),
            uid: UInt32Builder::new(),
            gid: UInt32Builder::new(),
            rdev: UInt64Builder::new(),
            mtime: timestamp_builder(),
            flags: UInt32Builder::new(),
        }
    }

    pub(super) fn append(&mut self, value: Option<Attributes>) {
        self.size.append_option(value.map(|a| a.size));
        self.mode.append_option(value.map(|a| a.mode));
        self.uid.append_option(value.map(|a| a.uid));
        self.gid.append_option(value.map(|a| a.gid));
        self.rdev.append_option(value.map(|a| a.rdev));
        self.mtime.append_option(value.map(|a| a.mtime));
        self.flags.append_option(value.map(|a| a.flags));
    }

    pub(super) fn finish(&mut self) -> [Arc<dyn Array>; 7] {
        [
            Arc::new(self.size.finish()),
            Arc::new(self.mode.finish()),
            Arc::new(self.uid.finish()),
            Arc::new(self.gid.finish()),
            Arc::new(self.rdev.finish()),
            Arc::new(self.mtime.finish()),
            Arc::new(self.flags.finish()),
        ]
    }
}
