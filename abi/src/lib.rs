//! The C structs of MySQL and MariaDB that a plugin exchanges with its server.
