//! A server of its own around a command: for programs that test a server that runs already.

use crate::scratch::Scratch;
use crate::server::{Options, Server};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// The variable that tells the command where the server's socket is.
pub const SOCKET: &str = "LAB_SOCKET";

/// Starts a fresh server that can install the plugin and has a database `test`, runs the command and stops the
/// server; whether the command succeeded.
///
/// # Errors
/// When server or command cannot be started, or the server does not stop as it should.
pub fn run(name: &str, command: &[String]) -> Result<bool> {
    let Some((program, args)) = command.split_first() else { bail!("with-server wants a command") };
    let scratch = Scratch::new(&format!("with-{name}"))?;
    let options = Options { plugins: vec![crate::built::plugin()?], ..Options::default() };
    let mut server = Server::create(name, scratch.path(), options)?;
    server.start()?;
    server.connect()?.exec("CREATE DATABASE IF NOT EXISTS test")?;
    let status = Command::new(program)
        .args(args)
        .env(SOCKET, server.socket())
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    server.stop()?;
    Ok(status.success())
}
