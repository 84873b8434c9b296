/* A file system layer of SQLite ("page-checksums") that stores a checksum in each page of a database, and compares it when
 * the page is read. A changed byte or a cut file is reported as SQLITE_IOERR_DATA, in tables and indexes alike.
 *
 * It is SQLite's own cksumvfs, reduced to what the read models need: all files of this layer have checksums, and the
 * checksum covers the place of the page. The layer changes a few methods of the files that the default layer opens, and all
 * others are the default ones.
 *
 * Pages in the write-ahead log have no room for a checksum, because SQLite's own covers the whole page; but SQLite compares
 * that only after a crash. So the process remembers the checksums of the pages that it wrote there, and a page of another
 * process is damage. A page gets its lasting checksum when it is copied into the database.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "sqlite3.h"

/* The bytes at the end of each page that SQLite does not use. */
#define RESERVED 8
/* Shorter reads and writes are of parts of the header. */
#define PAGE_MIN 512

/* The headers of the write-ahead log and of each page in it. */
#define LOG_HEADER 32
#define FRAME_HEADER 24

/* A write-ahead log that connections of this process have open. */
struct log {
    struct log *next;
    /* A removed file and the next one with its name are not the same. */
    dev_t device;
    ino_t inode;
    int connections;
    /* The checksums of its pages, in their order; 0 for one that is not known. */
    sqlite3_uint64 *sums;
    size_t count;
    /* Up to here, pages of an earlier process were read after a crash, and their checksums are not known. */
    sqlite3_int64 recovered;
};

static struct log *logs;
static sqlite3_vfs *base;
static sqlite3_vfs layer;

/* The methods of one kind of file. */
struct methods {
    const sqlite3_io_methods *base;
    sqlite3_io_methods changed;
};

static struct methods of_databases;
static struct methods of_logs;

static sqlite3_mutex *mutex(void) { return sqlite3_mutex_alloc(SQLITE_MUTEX_STATIC_APP1); }

/* The log of an open file: SQLite gives each file of this layer room for it. */
static struct log **log_of(sqlite3_file *file) { return (struct log **)((char *)file + base->szOsFile); }

/* The sums of cksumvfs, which change with every changed byte. They start with the number of the page. */
static void checksum(const unsigned char *page, int bytes, sqlite3_int64 offset, unsigned char *sum) {
    unsigned int sums[2] = {(unsigned int)(offset / PAGE_MIN) + 1, 0};
    for (int at = 0; at + 8 <= bytes - RESERVED; at += 8) {
        unsigned int words[2];
        memcpy(words, page + at, sizeof words);
        sums[0] += words[0] + sums[1];
        sums[1] += words[1] + sums[0];
    }
    memcpy(sum, sums, RESERVED);
}

static int read_page(sqlite3_file *file, void *buffer, int bytes, sqlite3_int64 offset) {
    unsigned char sum[RESERVED];
    int result = of_databases.base->xRead(file, buffer, bytes, offset);
    if (bytes < PAGE_MIN) {
        return result;
    }
    /* SQLite takes what is missing at the end of a file as zeros. */
    if (result == SQLITE_IOERR_SHORT_READ) {
        return SQLITE_IOERR_DATA;
    }
    if (result == SQLITE_OK) {
        checksum(buffer, bytes, offset, sum);
        if (memcmp((unsigned char *)buffer + bytes - RESERVED, sum, RESERVED) != 0) {
            result = SQLITE_IOERR_DATA;
        }
    }
    return result;
}

/* The buffer is SQLite's own page, whose last bytes SQLite leaves to this layer. */
static int write_page(sqlite3_file *file, const void *buffer, int bytes, sqlite3_int64 offset) {
    unsigned char *page = (unsigned char *)buffer;
    if (bytes >= PAGE_MIN) {
        /* The header states the reserved bytes: never write into a database without them. */
        if (offset == 0 && page[20] != RESERVED) {
            return SQLITE_IOERR_WRITE;
        }
        checksum(page, bytes, offset, page + bytes - RESERVED);
    }
    return of_databases.base->xWrite(file, buffer, bytes, offset);
}

/* A part of a page cannot be compared, so that SQLite must not read one, as it otherwise does for large rows. */
static int characteristics(sqlite3_file *file) {
    return of_databases.base->xDeviceCharacteristics(file) & ~SQLITE_IOCAP_SUBPAGE_READ;
}

/* The place of a page's checksum; none for what is not a page. The caller holds the mutex. */
static sqlite3_uint64 *sum_of(struct log *log, int bytes, sqlite3_int64 offset) {
    sqlite3_int64 first = offset - LOG_HEADER - FRAME_HEADER;
    size_t index = (size_t)(first / (bytes + FRAME_HEADER));
    if (bytes < PAGE_MIN || (bytes & (bytes - 1)) != 0 || first < 0 || first % (bytes + FRAME_HEADER) != 0) {
        return 0;
    }
    if (index >= log->count) {
        size_t count = 2 * index + 64;
        sqlite3_uint64 *sums = realloc(log->sums, count * sizeof *sums);
        if (sums == 0) {
            return 0;
        }
        memset(sums + log->count, 0, (count - log->count) * sizeof *sums);
        log->sums = sums;
        log->count = count;
    }
    return &log->sums[index];
}

/* The checksum of a whole page, which is never 0. */
static sqlite3_uint64 log_checksum(const unsigned char *page, int bytes, sqlite3_int64 offset) {
    sqlite3_uint64 sum, last;
    checksum(page, bytes, offset, (unsigned char *)&sum);
    memcpy(&last, page + bytes - RESERVED, RESERVED);
    sum += last * 31;
    return sum == 0 ? 1 : sum;
}

static int read_log(sqlite3_file *file, void *buffer, int bytes, sqlite3_int64 offset) {
    int result = of_logs.base->xRead(file, buffer, bytes, offset);
    if (result == SQLITE_OK && bytes >= PAGE_MIN) {
        sqlite3_uint64 sum = log_checksum(buffer, bytes, offset);
        sqlite3_mutex_enter(mutex());
        sqlite3_uint64 *known = sum_of(*log_of(file), bytes, offset);
        if (known != 0 && *known == 0 && offset < (*log_of(file))->recovered) {
            *known = sum;
        } else if (known != 0 && *known != sum) {
            result = SQLITE_IOERR_DATA;
        }
        sqlite3_mutex_leave(mutex());
    }
    return result;
}

static int write_log(sqlite3_file *file, const void *buffer, int bytes, sqlite3_int64 offset) {
    sqlite3_uint64 sum = bytes >= PAGE_MIN ? log_checksum(buffer, bytes, offset) : 0;
    sqlite3_mutex_enter(mutex());
    struct log *log = *log_of(file);
    sqlite3_uint64 *known = sum_of(log, bytes, offset);
    if (known != 0) {
        *known = sum;
    } else if (offset == 0) {
        /* The log starts again. */
        log->count = 0;
        log->recovered = 0;
    } else if (bytes != FRAME_HEADER) {
        /* A page is written in parts. */
        log->count = 0;
        log->recovered = offset + bytes + 65536;
    }
    sqlite3_mutex_leave(mutex());
    return of_logs.base->xWrite(file, buffer, bytes, offset);
}

static int close_log(sqlite3_file *file) {
    struct log *log = *log_of(file);
    sqlite3_mutex_enter(mutex());
    if (--log->connections == 0) {
        struct log **at = &logs;
        while (*at != log) {
            at = &(*at)->next;
        }
        *at = log->next;
        free(log->sums);
        free(log);
    }
    sqlite3_mutex_leave(mutex());
    return of_logs.base->xClose(file);
}

/* Finds or adds an open log. The caller holds the mutex. */
static struct log *find_log(sqlite3_file *file, const char *name) {
    struct stat info;
    struct log *log = logs;
    if (stat(name, &info) != 0) {
        return 0;
    }
    while (log != 0 && (log->device != info.st_dev || log->inode != info.st_ino)) {
        log = log->next;
    }
    if (log == 0) {
        log = calloc(1, sizeof *log);
        if (log == 0 || of_logs.base->xFileSize(file, &log->recovered) != SQLITE_OK) {
            free(log);
            return 0;
        }
        log->device = info.st_dev;
        log->inode = info.st_ino;
        log->next = logs;
        logs = log;
    }
    log->connections++;
    return log;
}

/* Changes the methods of an open file. The caller holds the mutex. */
static int take_over(sqlite3_file *file, const char *name, int is_log) {
    struct methods *methods = is_log ? &of_logs : &of_databases;
    if (methods->base == 0) {
        methods->changed = *file->pMethods;
        /* Without the methods of version 3, which map the file into memory. */
        methods->changed.iVersion = 2;
        methods->changed.xRead = is_log ? read_log : read_page;
        methods->changed.xWrite = is_log ? write_log : write_page;
        if (is_log) {
            methods->changed.xClose = close_log;
        } else {
            methods->changed.xDeviceCharacteristics = characteristics;
        }
        methods->base = file->pMethods;
    }
    if (file->pMethods != methods->base) {
        return SQLITE_CANTOPEN;
    }
    if (is_log) {
        *log_of(file) = find_log(file, name);
        if (*log_of(file) == 0) {
            return SQLITE_CANTOPEN;
        }
    }
    file->pMethods = &methods->changed;
    return SQLITE_OK;
}

static int open_file(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *out_flags) {
    int result = base->xOpen(base, name, file, flags, out_flags);
    (void)vfs;
    if (result == SQLITE_OK && (flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL))) {
        sqlite3_mutex_enter(mutex());
        result = take_over(file, name, (flags & SQLITE_OPEN_WAL) != 0);
        sqlite3_mutex_leave(mutex());
        if (result != SQLITE_OK) {
            file->pMethods->xClose(file);
            file->pMethods = 0;
        }
    }
    return result;
}

/* Called for each new connection: a new database gets the reserved bytes. */
static int reserve_bytes(sqlite3 *db, char **error, const void *unused) {
    sqlite3_vfs *vfs = 0;
    int reserved = RESERVED;
    (void)error;
    (void)unused;
    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_VFS_POINTER, &vfs) == SQLITE_OK && vfs == &layer) {
        return sqlite3_file_control(db, "main", SQLITE_FCNTL_RESERVE_BYTES, &reserved);
    }
    return SQLITE_OK;
}

/* Before `main`, so that the Rust code only names the layer. */
__attribute__((constructor)) static void register_layer(void) {
    base = sqlite3_vfs_find(0);
    if (base == 0) {
        return;
    }
    layer = *base;
    layer.zName = "page-checksums";
    layer.szOsFile = base->szOsFile + (int)sizeof(struct log *);
    layer.xOpen = open_file;
    if (sqlite3_vfs_register(&layer, 0) == SQLITE_OK) {
        sqlite3_auto_extension((void (*)(void))reserve_bytes);
    }
}
