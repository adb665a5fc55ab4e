//! What sides that change only some of the side behind them have in common.

/// The methods of a `Side` that read one inode, answered by `self.side`.
macro_rules! read_from_side {
    () => {
        fn path_of(&self, link: &snapsync_model::Link) -> snapsync_model::Result<snapsync_model::RelPath> {
            self.side.path_of(link)
        }

        fn details(&self, inode: &snapsync_model::Inode) -> snapsync_model::Result<snapsync_model::Details> {
            self.side.details(inode)
        }

        fn open(&self, inode: &snapsync_model::Inode) -> snapsync_model::Result<snapsync_model::Content> {
            self.side.open(inode)
        }

        fn holds_still(
            &self,
            inode: &snapsync_model::Inode,
            file: &snapsync_model::Content,
        ) -> snapsync_model::Result<()> {
            self.side.holds_still(inode, file)
        }

        fn layout(
            &self,
            inode: &snapsync_model::Inode,
            file: &snapsync_model::Content,
        ) -> snapsync_model::Result<snapsync_model::Layout> {
            self.side.layout(inode, file)
        }

        fn known_layout(
            &self,
            inode: &snapsync_model::Inode,
        ) -> snapsync_model::Result<Option<snapsync_model::Layout>> {
            self.side.known_layout(inode)
        }

        fn packed(
            &self,
            inode: &snapsync_model::Inode,
        ) -> snapsync_model::Result<Option<snapsync_model::Packed>> {
            self.side.packed(inode)
        }

        fn space(&self) -> Option<u128> {
            self.side.space()
        }
    };
}

/// The methods of a `Side` that tell what there is, and where, answered by `self.side`.
macro_rules! list_from_side {
    () => {
        fn inodes(&self) -> snapsync_model::Result<snapsync_model::Inodes<'_>> {
            self.side.inodes()
        }

        fn everything(&self) -> snapsync_model::Result<snapsync_model::Inodes<'_>> {
            self.side.everything()
        }

        fn path_of(&self, link: &snapsync_model::Link) -> snapsync_model::Result<snapsync_model::RelPath> {
            self.side.path_of(link)
        }

        fn details(&self, inode: &snapsync_model::Inode) -> snapsync_model::Result<snapsync_model::Details> {
            self.side.details(inode)
        }

        fn owners(
            &self,
            address: snapsync_model::Address,
        ) -> snapsync_model::Result<Option<snapsync_model::Owners>> {
            self.side.owners(address)
        }

        fn pick(
            &self,
            inos: &std::collections::BTreeSet<u64>,
        ) -> snapsync_model::Result<Vec<snapsync_model::Inode>> {
            self.side.pick(inos)
        }
    };
}

pub(crate) use {list_from_side, read_from_side};
