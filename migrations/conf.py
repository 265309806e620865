"""Read by pw_migrate, so that it shares the history that aicontent.migrate() keeps."""

MIGRATE_TABLE = "aicontent_migratehistory"
