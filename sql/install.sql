-- Installs the plugin until UNINSTALL PLUGIN, over restarts. The file tokudb_backup.so lies in @@plugin_dir.
-- Instead, in my.cnf:  [mysqld]  plugin-load-add = tokudb_backup.so
INSTALL PLUGIN tokudb_backup SONAME 'tokudb_backup.so';

-- What it brought.
SELECT PLUGIN_NAME, PLUGIN_STATUS, PLUGIN_VERSION FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'tokudb_backup';
SHOW GLOBAL VARIABLES LIKE 'tokudb_backup%';
