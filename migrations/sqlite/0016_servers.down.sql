DROP TABLE journals;
DROP TABLE servers;
