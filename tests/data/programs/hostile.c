/* An app that means harm. It listens on $PORT and does what it is asked to, as `/verb?argument`; the answer begins with
 * "yes" where it got what it wanted, and with "no" and the reason where it did not. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char answer[65536];

static void say(const char *format, ...) {
	va_list args;
	va_start(args, format);
	vsnprintf(answer, sizeof answer, format, args);
	va_end(args);
}

static void no(void) { say("no: %s", strerror(errno)); }

static void try_read(const char *path) {
	int fd = open(path, O_RDONLY | O_NONBLOCK);
	if (fd < 0) return no();
	char bytes[200];
	ssize_t n = read(fd, bytes, sizeof bytes - 1);
	close(fd);
	if (n < 0) return no();
	bytes[n] = 0;
	say("yes: %s", bytes);
}

static void try_write(const char *path) {
	int fd = open(path, O_WRONLY | O_CREAT, 0666);
	if (fd < 0) return no();
	ssize_t n = write(fd, "0", 1);
	close(fd);
	if (n != 1) return no();
	say("yes");
}

static void try_list(const char *path) {
	DIR *dir = opendir(path);
	if (!dir) return no();
	closedir(dir);
	say("yes");
}

/* Connects to the management socket and asks for every app's status. */
static void try_manage(const char *path) {
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	strncpy(to.sun_path, path, sizeof to.sun_path - 1);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
		no();
		close(fd);
		return;
	}
	const char *call = "{\"protocol\":1,\"client\":\"x\",\"who\":\"x\"}\n{\"id\":1,\"request\":\"info\"}\n";
	char bytes[4096];
	ssize_t n = 0, more;
	if (write(fd, call, strlen(call)) > 0)
		while (n < (ssize_t)sizeof bytes - 1 && (more = read(fd, bytes + n, sizeof bytes - 1 - n)) > 0) {
			n += more;
			bytes[n] = 0;
			if (strstr(bytes, "\"reply\"") || strstr(bytes, "\"fault\"")) break;
		}
	close(fd);
	say("%s", n > 0 && strstr(bytes, "\"reply\"") ? "yes" : "no: it does not answer");
}

static void try_signal(pid_t pid) {
	if (kill(pid, SIGKILL) < 0) return no();
	say("yes");
}

static void try_trace(pid_t pid) {
	if (ptrace(PTRACE_ATTACH, pid, 0, 0) < 0) return no();
	say("yes");
}

static void try_steal(pid_t pid) {
	int process = syscall(SYS_pidfd_open, pid, 0);
	if (process < 0) return no();
	for (int fd = 0; fd < 16; fd++)
		if (syscall(SYS_pidfd_getfd, process, fd, 0) >= 0) return say("yes: %d", fd);
	no();
	close(process);
}

/* As many children as it can have. */
static void bomb_forks(void) {
	static pid_t children[20000];
	int n = 0;
	while (n < 20000 && (children[n] = fork()) >= 0) {
		if (children[n] == 0) {
			pause();
			_exit(0);
		}
		n++;
	}
	int why = errno;
	for (int i = 0; i < n; i++) kill(children[i], SIGKILL);
	for (int i = 0; i < n; i++) waitpid(children[i], NULL, 0);
	say("%d: %s", n, n == 20000 ? "no end" : strerror(why));
}

static void bomb_memory(long megabytes) {
	long had = 0;
	char *pieces[4096];
	for (; had < megabytes && had < 4096; had++) {
		pieces[had] = malloc(1 << 20);
		if (!pieces[had]) break;
		memset(pieces[had], 1, 1 << 20);
	}
	int enough = had == megabytes;
	say("%s: %ld MiB", enough ? "yes" : "no", had);
	while (had > 0) free(pieces[--had]);
}

static pid_t flooding;

/* In a child, so that it answers meanwhile. */
static void flood(long megabytes) {
	static char line[1 << 20];
	flooding = fork();
	if (flooding) return say(flooding > 0 ? "yes" : "no");
	memset(line, 'x', sizeof line);
	for (size_t at = 99; at < sizeof line; at += 100) line[at] = '\n';
	for (long n = 0; n < megabytes; n++)
		for (size_t at = 0; at < sizeof line;) {
			ssize_t wrote = write(1, line + at, sizeof line - at);
			if (wrote < 0) _exit(1);
			at += wrote;
		}
	_exit(0);
}

static void flooded(void) {
	int status = 0;
	pid_t ended = waitpid(flooding, &status, WNOHANG);
	say(ended == 0 ? "not yet" : status == 0 ? "yes" : "no");
}

/* A process with a session of its own that listens to nothing and has no parent. */
static void leave_daemon(void) {
	int pipes[2];
	if (pipe(pipes) < 0) return no();
	pid_t pid = fork(), left = 0;
	if (pid == 0) {
		setsid();
		pid_t inner = fork();
		if (inner == 0) {
			signal(SIGTERM, SIG_IGN);
			signal(SIGHUP, SIG_IGN);
			for (int fd = 0; fd < 64; fd++) close(fd);
			for (;;) pause();
		}
		ssize_t wrote = write(pipes[1], &inner, sizeof inner);
		_exit(wrote < 0);
	}
	close(pipes[1]);
	ssize_t got = read(pipes[0], &left, sizeof left);
	close(pipes[0]);
	waitpid(pid, NULL, 0);
	say(got == sizeof left ? "%d" : "no", left);
}

static int own_folder(const char *variable) {
	char path[4096];
	const char *dir = getenv(variable);
	if (!dir) return 0;
	snprintf(path, sizeof path, "%s/mine", dir);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	if (fd < 0) return 0;
	close(fd);
	struct stat stat_of;
	return stat(dir, &stat_of) == 0 && (stat_of.st_mode & 07777) == 0700 && stat_of.st_uid == getuid();
}

static void line_of(const char *file, const char *key, char *into, size_t size) {
	char line[512];
	FILE *f = fopen(file, "r");
	*into = 0;
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) {
			line[strcspn(line, "\n")] = 0;
			snprintf(into, size, "%s", line);
			for (char *c = into; *c; c++) if (*c == '\t') *c = ' ';
		}
	if (f) fclose(f);
}

/* What it may do, and what it is. */
static void own(void) {
	char caps[128], bounds[128], ambient[128], privs[128];
	line_of("/proc/self/status", "CapPrm:", caps, sizeof caps);
	line_of("/proc/self/status", "CapBnd:", bounds, sizeof bounds);
	line_of("/proc/self/status", "CapAmb:", ambient, sizeof ambient);
	line_of("/proc/self/status", "NoNewPrivs:", privs, sizeof privs);
	struct rlimit core, files;
	getrlimit(RLIMIT_CORE, &core);
	getrlimit(RLIMIT_NOFILE, &files);
	int again = open("/dev/stdout", O_WRONLY), secret = open("/proc/self/fd/3", O_RDONLY | O_NONBLOCK);
	char score[32] = "";
	FILE *f = fopen("/proc/self/oom_score_adj", "r");
	if (!f || !fgets(score, sizeof score, f)) *score = 0;
	if (f) fclose(f);
	score[strcspn(score, "\n")] = 0;
	mode_t mask = umask(0);
	umask(mask);
	say("uid=%d gid=%d groups=%d data=%d home=%d tmp=%d stdout=%d secret=%d core=%ld files=%ld umask=%03o oom=%s %s %s %s %s",
	    getuid(), getgid(), getgroups(0, NULL), own_folder("TAKO_DATA_DIR"), own_folder("HOME"), own_folder("TMPDIR"),
	    again >= 0, secret >= 0, (long)core.rlim_max, (long)files.rlim_cur, mask, score, caps, bounds, ambient, privs);
	close(again);
	close(secret);
}

static void serve(const char *verb, const char *argument) {
	long number = atol(argument);
	say("up");
	if (!strcmp(verb, "read")) try_read(argument);
	if (!strcmp(verb, "write")) try_write(argument);
	if (!strcmp(verb, "list")) try_list(argument);
	if (!strcmp(verb, "manage")) try_manage(argument);
	if (!strcmp(verb, "signal")) try_signal(number);
	if (!strcmp(verb, "trace")) try_trace(number);
	if (!strcmp(verb, "steal")) try_steal(number);
	if (!strcmp(verb, "forks")) bomb_forks();
	if (!strcmp(verb, "memory")) bomb_memory(number);
	if (!strcmp(verb, "flood")) flood(number);
	if (!strcmp(verb, "flooded")) flooded();
	if (!strcmp(verb, "daemon")) leave_daemon();
	if (!strcmp(verb, "own")) own();
}

int main(void) {
	signal(SIGPIPE, SIG_IGN);
	int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 128) < 0) return 1;
	puts("it listens");
	fflush(stdout);
	for (;;) {
		static char head[8192], whole[sizeof answer + 256];
		int stream = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		ssize_t n = 0, more;
		memset(head, 0, sizeof head);
		while (n < (ssize_t)sizeof head - 1 && (more = read(stream, head + n, sizeof head - 1 - n)) > 0) {
			n += more;
			if (strstr(head, "\r\n\r\n")) break;
		}
		char verb[64] = "", argument[4096] = "";
		sscanf(head, "GET /%63[^? ]?%4095[^ ]", verb, argument);
		if (n > 0) {
			serve(verb, argument);
			int length = snprintf(whole, sizeof whole, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
			                      strlen(answer), answer);
			ssize_t wrote = write(stream, whole, length);
			(void)wrote;
		}
		close(stream);
	}
}
