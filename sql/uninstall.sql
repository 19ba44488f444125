-- Removes the plugin. While a backup runs, MySQL 8.0 and later refuse; MySQL 5.6 and MariaDB remove it afterwards.
-- A new file of the same name takes effect after the server's next start only.
UNINSTALL PLUGIN tokudb_backup;
