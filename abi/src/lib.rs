//! The C structs of MySQL and MariaDB that a plugin exchanges with its server, written by hand for x86-64 and
//! proven by static assertions on every size and offset. No behaviour lives here.
//!
//! - [`common`]: what MySQL 5.5 to 9.7 and MariaDB 10.5 to 11.8 lay out alike.
//! - [`mysql`]: plugin declarations of MySQL, and what its C++ functions pass.
//! - [`mysql_5_6`]: objects of MySQL 5.6 whose layout we rely on to hold DDL off and to run SQL.
//! - [`mysql_command`]: SQL in a session of our own, on MySQL 5.7 and later.
//! - [`mariadb`]: plugin declaration of MariaDB, and its SQL service.
//!
//! Headers are named with the version in which they were read: `plugin.h` is `include/mysql/plugin.h`.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the servers' structs are laid out here for x86-64 Linux");

pub mod common;
pub mod mariadb;
pub mod mysql;
pub mod mysql_5_6;
pub mod mysql_command;
