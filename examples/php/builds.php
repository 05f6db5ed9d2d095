<?php
// A tool of your own: what somebody has waiting, and out of the queue with it.
//
//   php builds.php STORE SUBMITTER             list that person's queued builds
//   php builds.php STORE SUBMITTER cancel ID   cancel one of them
//
// STORE is a master's data directory, or a PDO name: 'pgsql:host=db;dbname=farm;user=tool'.
// It needs php-cli, and php-sqlite3 or php-pgsql. The tables are in master/store/SCHEMA.md.

if ($argc !== 3 && !($argc === 5 && $argv[3] === 'cancel')) {
    fwrite(STDERR, "usage: php builds.php STORE SUBMITTER [cancel ID]\n");
    exit(2);
}
[, $store, $submitter] = $argv;

// The time-out is in seconds: without it a database that is busy for a moment is an error.
$options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_TIMEOUT => 5, PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_ASSOC];
if (str_starts_with($store, 'pgsql:')) {
    $read = $write = new PDO($store, null, null, $options);
} else {
    $read = new PDO("sqlite:$store/holdfast.db", null, null, $options + [PDO::SQLITE_ATTR_OPEN_FLAGS => PDO::SQLITE_OPEN_READONLY]);
    $write = new PDO("sqlite:$store/commands.db", null, null, $options); // never holdfast.db
}

if ($argc === 3) {
    $builds = $read->prepare("SELECT id, name, created_at, wait, reason FROM v1_builds
        WHERE state = 'queued' AND submitter = ? ORDER BY number");
    $builds->execute([$submitter]);
    foreach ($builds as $b) {
        echo "{$b['id']}  {$b['name']}  since {$b['created_at']}  waits for {$b['wait']}  {$b['reason']}\n";
    }
    exit(0);
}

// The id makes it harmless to ask twice.
$id = bin2hex(random_bytes(16));
$write->prepare("INSERT INTO v1_commands (id, command, build_id, who, reason) VALUES (?, 'cancel', ?, ?, ?)")
    ->execute([$id, $argv[4], $submitter, 'by builds.php']);
$row = $write->prepare('SELECT state, refusal FROM v1_commands WHERE id = ?');
for ($i = 0; $i < 100; $i++) { // a second, usually much less
    $row->execute([$id]);
    $answer = $row->fetch();
    $row->closeCursor();
    if ($answer['state'] !== 'new') {
        echo $answer['state'], $answer['refusal'] === null ? '' : ": {$answer['refusal']}", "\n";
        exit($answer['state'] === 'done' ? 0 : 1);
    }
    usleep(100_000);
}
fwrite(STDERR, "no answer yet: is a master running? The command stays, and will be carried out.\n");
exit(1);
