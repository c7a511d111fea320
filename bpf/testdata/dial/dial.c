/* Connects to the IPv4 address and port that it is given and prints what it hears. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in dst = {.sin_family = AF_INET};
	char buf[64];
	ssize_t n;
	int fd;

	if (argc != 3)
		return 0;
	dst.sin_port = htons(atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &dst.sin_addr);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&dst, sizeof(dst)) || (n = read(fd, buf, sizeof(buf))) < 0) {
		perror("dial");
		return 1;
	}
	return fwrite(buf, 1, n, stdout) != (size_t)n;
}
