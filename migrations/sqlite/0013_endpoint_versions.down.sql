DROP INDEX endpoints_by_version;
