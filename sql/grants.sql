-- An account that may take backups and nothing else. Choose a password. PROCESS lets error messages name who keeps
-- DDL from being held off.

-- MySQL 8.0 and later:
--   CREATE USER 'backup'@'localhost' IDENTIFIED BY '...';
--   GRANT BACKUP_ADMIN, PROCESS ON *.* TO 'backup'@'localhost';

-- MySQL 5.6 and 5.7, MariaDB:
--   CREATE USER 'backup'@'localhost' IDENTIFIED BY '...';
--   GRANT SUPER, PROCESS ON *.* TO 'backup'@'localhost';

-- Who may take backups now.
SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES
 WHERE PRIVILEGE_TYPE IN ('SUPER', 'BACKUP_ADMIN') ORDER BY GRANTEE, PRIVILEGE_TYPE;
