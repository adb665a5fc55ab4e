//! Columns that both kinds of files have, converted from and to the model.

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Int64Builder, ListBuilder, StructBuilder, TimestampNanosecondBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampNanosecondType, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, GenericListArray, PrimitiveArray,
    RecordBatch, StructArray, TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use snapsync_model::{Attributes, Kind, Link, Range, Rare, Xattr};
use std::sync::Arc;

pub(crate) type List = GenericListArray<i32>;

pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

pub(crate) fn timestamp_builder() -> TimestampNanosecondBuilder {
    TimestampNanosecondBuilder::new().with_timezone("UTC")
}

pub(crate) fn list_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(fields), false)))
}

pub(crate) fn link_fields() -> Fields {
    vec![Field::new("parent", DataType::UInt64, false), Field::new("name", DataType::Binary, false)].into()
}

pub(crate) fn xattr_fields() -> Fields {
    vec![Field::new("name", DataType::Binary, false), Field::new("value", DataType::Binary, false)].into()
}

pub(crate) fn range_fields() -> Fields {
    vec![Field::new("offset", DataType::UInt64, false), Field::new("length", DataType::UInt64, false)].into()
}

/// Attributes that few inodes have. Null for all others.
pub(crate) fn rare_fields() -> Fields {
    let number = |name| Field::new(name, DataType::UInt32, false);
    vec![
        number("project"),
        number("xflags"),
        number("extent_size"),
        number("cow_extent_size"),
        Field::new("far_second", DataType::Int64, false),
    ]
    .into()
}

pub(crate) fn rare_builder() -> StructBuilder {
    let number = || Box::new(UInt32Builder::new());
    let builders: Vec<Box<dyn ArrayBuilder>> =
        vec![number(), number(), number(), number(), Box::new(Int64Builder::new())];
    StructBuilder::new(rare_fields(), builders)
}

pub(crate) fn append_rare(builder: &mut StructBuilder, far_second: i64, rare: Rare) {
    let Rare { project, xflags, extent_size, cow_extent_size } = rare;
    for (at, number) in [project, xflags, extent_size, cow_extent_size].into_iter().enumerate() {
        field::<UInt32Builder>(builder, at).append_value(number);
    }
    field::<Int64Builder>(builder, 4).append_value(far_second);
    builder.append((far_second, rare) != (0, Rare::default()));
}

/// The attributes with the column's values added; unchanged if there is no such column.
pub(crate) fn with_rare(column: Option<&StructArray>, row: usize, attributes: Attributes) -> Attributes {
    let Some(column) = column.filter(|column| column.is_valid(row)) else { return attributes };
    let number = |at: usize| column.column(at).as_primitive::<UInt32Type>().value(row);
    let rare =
        Rare { project: number(0), xflags: number(1), extent_size: number(2), cow_extent_size: number(3) };
    let far_second = column.column(4).as_primitive::<Int64Type>().value(row);
    Attributes { far_second, rare, ..attributes }
}

pub(crate) type StructList = ListBuilder<StructBuilder>;

/// A builder for lists of structs whose items are not nullable.
pub(crate) fn struct_list(fields: Fields, builders: Vec<Box<dyn ArrayBuilder>>) -> StructList {
    let item = Field::new("item", DataType::Struct(fields.clone()), false);
    ListBuilder::new(StructBuilder::new(fields, builders)).with_field(item)
}

pub(crate) fn link_list() -> StructList {
    struct_list(link_fields(), vec![Box::new(UInt64Builder::new()), Box::new(BinaryBuilder::new())])
}

pub(crate) fn xattr_list() -> StructList {
    struct_list(xattr_fields(), vec![Box::new(BinaryBuilder::new()), Box::new(BinaryBuilder::new())])
}

pub(crate) fn range_list() -> StructList {
    struct_list(range_fields(), vec![Box::new(UInt64Builder::new()), Box::new(UInt64Builder::new())])
}

/// The builder of field `at`; the functions above fix its type.
pub(crate) fn field<T: ArrayBuilder>(builder: &mut StructBuilder, at: usize) -> &mut T {
    builder.field_builder(at).expect("the field has the builder it was made with")
}

pub(crate) fn append_links(list: &mut StructList, links: &[Link]) {
    for link in links {
        let item = list.values();
        field::<UInt64Builder>(item, 0).append_value(link.parent);
        field::<BinaryBuilder>(item, 1).append_value(&link.name);
        item.append(true);
    }
    list.append(true);
}

pub(crate) fn append_xattrs(list: &mut StructList, xattrs: Option<&[Xattr]>) {
    for xattr in xattrs.unwrap_or_default() {
        let item = list.values();
        field::<BinaryBuilder>(item, 0).append_value(&xattr.name);
        field::<BinaryBuilder>(item, 1).append_value(&xattr.value);
        item.append(true);
    }
    list.append(xattrs.is_some());
}

pub(crate) fn append_ranges(list: &mut StructList, ranges: &[Range]) {
    for range in ranges {
        let item = list.values();
        field::<UInt64Builder>(item, 0).append_value(range.offset);
        field::<UInt64Builder>(item, 1).append_value(range.length);
        item.append(true);
    }
    list.append(true);
}

/// The arrays of one batch by column name. The schema was checked when the file was opened.
pub(crate) struct Columns<'a>(pub(crate) &'a RecordBatch);

impl<'a> Columns<'a> {
    fn column(&self, name: &str) -> &'a ArrayRef {
        self.0.column_by_name(name).expect("the schema was checked")
    }

    pub(crate) fn u64(&self, name: &str) -> &'a UInt64Array {
        self.column(name).as_primitive::<UInt64Type>()
    }

    pub(crate) fn u32(&self, name: &str) -> &'a UInt32Array {
        self.column(name).as_primitive::<UInt32Type>()
    }

    pub(crate) fn flag(&self, name: &str) -> &'a BooleanArray {
        self.column(name).as_boolean()
    }

    pub(crate) fn time(&self, name: &str) -> &'a TimestampNanosecondArray {
        self.column(name).as_primitive::<TimestampNanosecondType>()
    }

    pub(crate) fn binary(&self, name: &str) -> &'a BinaryArray {
        self.column(name).as_binary::<i32>()
    }

    pub(crate) fn text(&self, name: &str) -> &'a arrow_array::StringArray {
        self.column(name).as_string::<i32>()
    }

    pub(crate) fn list(&self, name: &str) -> &'a List {
        self.column(name).as_list::<i32>()
    }

    /// None in a file of a version without this column.
    pub(crate) fn perhaps(&self, name: &str) -> Option<&'a StructArray> {
        self.0.column_by_name(name).map(|column| column.as_struct())
    }

    pub(crate) fn structure(&self, name: &str) -> &'a StructArray {
        self.column(name).as_struct()
    }
}

pub(crate) fn optional<T>(array: &dyn Array, row: usize, value: impl FnOnce() -> T) -> Option<T> {
    (!array.is_null(row)).then(value)
}

/// Reads a value unless it is null.
pub(crate) trait At<T> {
    fn at(&self, row: usize) -> Option<T>;
}

impl<P: ArrowPrimitiveType> At<P::Native> for PrimitiveArray<P> {
    fn at(&self, row: usize) -> Option<P::Native> {
        optional(self, row, || self.value(row))
    }
}

pub(crate) fn bytes_at(array: &BinaryArray, row: usize) -> Option<Box<[u8]>> {
    optional(array, row, || array.value(row).into())
}

pub(crate) fn kind_at(array: &arrow_array::StringArray, row: usize) -> Option<Kind> {
    Kind::from_name(array.value(row))
}

/// The range of list items that belong to a row. `value(row)` would build a new array for every row.
pub(crate) fn items_at(list: &List, row: usize) -> (std::ops::Range<usize>, &StructArray) {
    let offsets = list.value_offsets();
    (offsets[row] as usize..offsets[row + 1] as usize, list.values().as_struct())
}

pub(crate) fn links_at(list: &List, row: usize) -> Vec<Link> {
    each_link(list, row).map(|(parent, name)| Link { parent, name: name.into() }).collect()
}

/// The parent and the name of each link of a row.
pub(crate) fn each_link(list: &List, row: usize) -> impl Iterator<Item = (u64, &[u8])> {
    let (range, items) = items_at(list, row);
    let parents = items.column(0).as_primitive::<UInt64Type>();
    let names = items.column(1).as_binary::<i32>();
    range.map(|i| (parents.value(i), names.value(i)))
}

pub(crate) fn links_are(list: &List, row: usize, links: &[Link]) -> bool {
    each_link(list, row).eq(links.iter().map(|link| (link.parent, &*link.name)))
}

pub(crate) fn xattrs_at(list: &List, row: usize) -> Option<Vec<Xattr>> {
    if list.is_null(row) {
        return None;
    }
    let (range, items) = items_at(list, row);
    let names = items.column(0).as_binary::<i32>();
    let values = items.column(1).as_binary::<i32>();
    let xattr = |i| Xattr { name: names.value(i).into(), value: values.value(i).into() };
    Some(range.map(xattr).collect())
}

pub(crate) fn ranges_at(list: &List, row: usize) -> Vec<Range> {
    let (range, items) = items_at(list, row);
    let offsets = items.column(0).as_primitive::<UInt64Type>();
    let lengths = items.column(1).as_primitive::<UInt64Type>();
    range.map(|i| Range { offset: offsets.value(i), length: lengths.value(i) }).collect()
}
