-- How the running backup does, and how the last one ended. All of it works while a backup runs.

-- State, bytes and files done and to do, passes, times, result.
SHOW GLOBAL STATUS LIKE 'tokudb_backup%';

-- The session that runs it, with percent, rate, file and what is left.
SELECT ID, USER, TIME, STATE FROM information_schema.PROCESSLIST WHERE STATE LIKE 'backup:%';

-- What the last backup of this session came to: 0 and NULL after a success.
SELECT @@tokudb_backup_dir, @@tokudb_backup_last_error, @@tokudb_backup_last_error_string;

-- To act on it:
--   SET tokudb_backup_throttle = 50000000;   -- bytes per second, at once, from any session
--   SET tokudb_backup_throttle = 0;          -- pause; = DEFAULT goes on without a bound
--   KILL QUERY <ID>;                         -- end it; the destination stays marked incomplete
