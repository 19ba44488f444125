//! The C interface of `libHotBackup.so`.
